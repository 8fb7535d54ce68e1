"""The rows of Table 6: the paper's numbers, and each row with one change to the row before."""

from __future__ import annotations

import itertools

import pytest
import yaml

from tests.command_line import REPOSITORY

ROWS = ("mlp5", "mlp7", "dual", "dual_28", "dual_28_2x")
PARSED: dict[tuple[str, ...], dict] = {}  # parsing takes a second each time


def resolved(cli, capsys, row: str, *more: str) -> dict:
    if (row, *more) not in PARSED:
        with pytest.raises(SystemExit) as stop:
            cli("fit", "--config", str(REPOSITORY / "configs" / "table6" / f"{row}.yaml"), *more, "--print_config")
        assert stop.value.code == 0
        PARSED[row, *more] = yaml.safe_load(capsys.readouterr().out)
    return PARSED[row, *more]


def differences(one, other, key: str = "") -> dict[str, list]:
    if isinstance(one, dict) and isinstance(other, dict):
        found: dict[str, list] = {}
        for name in sorted(one.keys() | other.keys()):
            found |= differences(one.get(name), other.get(name), f"{key}.{name}" if key else name)
        return found
    return {} if one == other else {key: [one, other]}


def test_the_first_row_holds_the_papers_numbers(cli, capsys):
    config = resolved(cli, capsys, "mlp5")
    stage, data = config["model"]["init_args"], config["data"]
    model, optimization = stage["detector"], stage["optimization"]
    masks = model["masks"]["init_args"]
    # FPN App. A: 16 images a step, lr 0.03, divided by 10 after 60k of 80k steps
    assert (config["trainer"]["max_steps"], data["total_batch_size"]) == (80_000, 16)
    assert (optimization["lr"], optimization["milestones"], optimization["decay"]) == (0.03, [60_000], 0.1)
    assert (optimization["optimizer"], optimization["momentum"], optimization["weight_decay"]) == ("sgd", 0.9, 1e-4)
    # d = 128, sizes from 32 px on, 25 % padding, 14 x 14, 128 cells at 1 : 3, mask loss x 10, 1000 proposals
    assert (model["channels"], model["scale"]["base_anchor_size"], masks["padding"]) == (128, 32, 0.25)
    assert (masks["windows"], masks["octaves"], masks["hidden_channels"], masks["mask_size"]) == ([5], [0], 512, 14)
    assert (masks["batch_size_per_image"], masks["positive_fraction"], masks["mask_weight"]) == (128, 0.25, 10)
    assert masks["topk"] == 1000
    assert 1000 in stage["recall_limits"]
    assert model["backbone"]["init_args"]["name"] == "resnet50"
    # COCO 2014, the first 5,000 of val by id; masks are loaded
    assert (data["train_split"], data["val_split"], data["max_val_images"]) == ("train2014", "val2014", 5000)
    assert (data["load_masks"], data["short_side"]) == (True, 800)
    # where the paper is silent (DEVIATIONS.md)
    assert (stage["mask_threshold"], stage["mask_interpolation"]) == (0.2, "bilinear")
    assert (masks["loss"], masks["normalizer"], masks["tie_break"]) == ("logistic", "samples", "nearest")


def test_each_row_changes_one_thing_as_in_the_paper(cli, capsys):
    configs = [resolved(cli, capsys, row) for row in ROWS]
    steps = []
    for one, other in itertools.pairwise(configs):
        change = differences(one, other)
        change.pop("experiment.row")
        steps.append({key.rpartition(".")[2]: values for key, values in change.items()})
    assert steps == [
        {"windows": [[5], [7]], "octaves": [[0], [0.5]]},
        {"windows": [[7], [5, 7]], "octaves": [[0.5], [0, 0.5]]},
        {"mask_size": [14, 28]},
        {"schedule_factor": [1, 2]},
    ]


@pytest.mark.parametrize("row", ROWS)
def test_the_mini_preset_fits_every_row(cli, capsys, row):
    paper, mini = resolved(cli, capsys, row), resolved(cli, capsys, row, "--preset", "mini")
    assert mini["model"]["init_args"]["detector"]["masks"] == paper["model"]["init_args"]["detector"]["masks"]
    assert mini["model"]["init_args"]["detector"]["scale"]["base_anchor_size"] == 8
    assert mini["model"]["init_args"]["optimization"]["lr"] == 0.006
    factor = mini["model"]["init_args"]["optimization"]["schedule_factor"]
    assert factor == paper["model"]["init_args"]["optimization"]["schedule_factor"]
    assert mini["data"]["load_masks"] is True
