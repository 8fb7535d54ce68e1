"""Every command in the README and in docs works; ``commands.py`` says how each is checked."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.docs.commands import PAGES, check, commands_of

PAGES = [page for page in PAGES if page.stem != "your_data"]  # test_your_data.py runs its commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_works(folder, rows, page: Path):
    wrong = {}
    for command in commands_of(page):
        try:
            check(command.words, rows)
        except (Exception, SystemExit) as error:  # all wrong commands of a page at once
            wrong[str(command)] = f"{type(error).__name__}: {error}"
    assert not wrong, "\n".join(f"{command}\n    {error}" for command, error in wrong.items())


def test_pages_have_commands():
    found = {page.stem: len(list(commands_of(page))) for page in PAGES}
    assert found.keys() == {"README", "data", "experiments", "python", "reports", "weights"}
    assert found.pop("python") >= 2  # its examples in Python run in tests/test_api.py
    assert min(found.values()) >= 5


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python train.py fit --config configs/table1/c_fpn.yaml --data.rooot x", "rooot"),
        ("python train.py fit --config configs/table1/g_fpn.yaml", "table1/g_fpn.yaml does not exist"),
        ("python train.py fit --config configs/table1/c_fpn.yaml --preset huge", "presets/huge.yaml does not exist"),
        ("python train.py fit --config configs/table1/c_fpn.yaml --model.detector.backbone Nothing", "backbone: "),
        ("python train.py train --config configs/table1/c_fpn.yaml", "invalid choice"),
        ("python train.py validate --config runs/mini/table1/g_fpn/seed0/config.yaml", "g_fpn.yaml does not exist"),
        ("python -m fpn_lightning.scoring A B", "no module"),
        ("python -m fpn_lightning.evaluation ANNOTATIONS.json NOTHING.json --metric bbox", ""),
        ("python -m fpn_lightning.evaluation A B --metrics bbox", ""),
        ("python -m fpn_lightning.data.download --folder data/coco", "status 2"),
        ("make everything", "No rule to make target"),
        ("make mini COARES=8", "COARES"),
        ("make row ROW=table1/g_fpn PRESET=mini SEED=0", "configs/table1/g_fpn.yaml does not exist"),
        ("tensorboard --logdir runs", "no check for tensorboard"),
    ],
)
def test_a_wrong_flag_file_or_key_is_found(folder, rows, capsys, command: str, message: str):
    with pytest.raises((Exception, SystemExit)) as error:
        check(tuple(shlex.split(command)), rows)
    assert message in f"{error.value} {capsys.readouterr().err}"
