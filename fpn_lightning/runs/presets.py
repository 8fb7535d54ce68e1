"""The option ``--preset NAME``, which runs a row of a table at another scale.

A preset is the file ``configs/presets/<name>.yaml``. Optional files add or change values for one training stage, a
class of ``fpn_lightning/stages/`` (``presets/<name>/rpn.yaml``), or for one row of a table of the paper
(``presets/<name>/table1/f_finest.yaml``). The first ``--config`` is the file of the row. Before the command line is
parsed, the preset's files for this row are inserted after the first ``--config``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fpn_lightning.errors import InputError
from fpn_lightning.files import parse_yaml, read_yaml
from fpn_lightning.paper import paper_tables

BASE_CONFIG = Path(__file__).parents[1] / "base.yaml"
"""Defaults of every run."""
SUBCOMMANDS = ("fit", "validate", "test", "predict")
OWN_TABLE = "own"
"""Table name of a run if no configuration file names a row."""
PAPER = "paper"
"""Name of the default preset, which is the paper's scale and has no file."""
# For each class of ``fpn_lightning/stages/``, the name of its file in a preset's folder, without ``.yaml``.
STAGES = {
    "RPNStage": "rpn",
    "FastRCNNStage": "fast_rcnn",
    "FasterRCNNStage": "faster_rcnn",
    "MaskProposalStage": "mask_proposals",
}
OLD_KEYS = {"backbone", "pyramid", "pyramid_channels", "rpn", "roi_heads"}


def expand_preset(args: Sequence[str]) -> list[str]:
    """Replace ``--preset`` in a command line by the files of the preset.

    In the new command line, files come first, in this order: the row, the preset, the preset's file for the row's
    stage, the preset's file for the row, any further ``--config``. All other arguments follow, so that they override
    the files. If no file names the row, the run is called ``own/<name of the first file>``.

    Args:
        args: arguments of the program, subcommand included.

    Raises:
        InputError: if a config does not exist, if a file of a preset is given as ``--config``, if the preset is
            unknown, or if ``--preset`` is given but the first ``--config`` is not a row.
    """
    place = next((number for number, word in enumerate(args) if word in SUBCOMMANDS), len(args))
    configs, presets, others = _sort(args[place + 1 :])
    for config in configs:
        _check_config(config)
    if len(presets) > 1:
        raise InputError(f"--preset is given {len(presets)} times ({', '.join(presets)}). Give only one preset.")
    if configs and presets:
        row = find_row(Path(configs[0]))
        configs[1:1] = map(str, preset_files(row, presets[0]))
    elif presets and not {"-h", "--help"} & set(others):
        raise InputError(f"--preset {presets[0]} needs a row. Give its file, for example configs/table1/c_fpn.yaml")
    files = [Path(config) for config in configs if Path(config).suffix in (".yaml", ".yml") and "://" not in config]
    if files and not any((_read(file).get("experiment") or {}).get("row") for file in files):
        configs.insert(0, json.dumps({"experiment": {"table": OWN_TABLE, "row": files[0].stem}}))
    return [*args[: place + 1], *(f"--config={config}" for config in configs), *others]


def preset_files(row: Path, preset: str) -> list[Path]:
    """Return a preset's files for a row, in order: for all rows, for the row's stage, for the row itself.

    Args:
        row: file of the row.
        preset: name of the preset. The preset ``paper`` has no files.

    Raises:
        InputError: if the preset does not exist, if the file is not a row, or if the file is the complete configuration
            of a run, which already contains a preset.
    """
    content = _read(row)
    experiment, model = (content.get(key) or {} for key in ("experiment", "model"))
    if not (isinstance(experiment, dict) and isinstance(model, dict)):
        raise InputError(
            f"{row} is not the configuration of a table's row: 'experiment' and 'model' have to be mappings"
        )
    stage = model.get("class_path")
    if named := experiment.get("preset"):
        raise InputError(f"{row} already contains the values of preset {named}: leave out --preset {preset}")
    if stage is None:
        raise InputError(
            f"{row} has no model.class_path, so it does not describe a row of a table. With --preset, the first "
            "--config has to be the file of a row, for example configs/table1/c_fpn.yaml"
        )
    if preset == PAPER:
        return []
    folder = config_folder(row) / "presets"
    if not (folder / f"{preset}.yaml").is_file() or "/" in preset:
        there = ", ".join([PAPER, *_names(folder)])
        raise InputError(f"--preset {preset}: {folder / preset}.yaml does not exist. The presets are: {there}")
    parts = [
        folder / preset / f"{STAGES.get(str(stage).rpartition('.')[2])}.yaml",
        folder / preset / f"{experiment.get('table')}" / f"{experiment.get('row')}.yaml",
    ]
    return [folder / f"{preset}.yaml", *filter(Path.is_file, parts)]


def config_folder(row: Path) -> Path:
    """Return the folder that contains ``presets/`` for a row.

    The nearest such folder above the row's file is used. If there is none, the folder is ``configs``.
    """
    above = (*row.parents, *row.absolute().parents)
    return next((folder for folder in above if (folder / "presets").is_dir()), Path("configs"))


def find_row(path: Path) -> Path:
    """Return the path of a row's file if it exists.

    Raises:
        InputError: if the file does not exist. The message lists the existing rows or tables. If the row has no file of
            its own because another row is the same model, the message names the other row.
    """
    if path.is_file():
        return path
    table, row = path.parent.name, path.stem
    printed = paper_tables()[table].rows.get(row) if table in paper_tables() else None
    if printed is not None and printed.same_as:
        twin = printed.same_as
        raise InputError(
            f"{table}/{row} is the same model as {twin}. Run {twin}, whose records are used for both rows: "
            f"--config {path.parent.parent / twin}.yaml, or make row ROW={twin}"
        )
    if path.parent.is_dir() and (there := _names(path.parent)):
        raise InputError(f"{path} does not exist. The files in this folder are: {', '.join(there)}")
    folder = next((above for above in path.parents if above.is_dir() and _tables(above)), Path("configs"))
    raise InputError(f"{path} does not exist. The tables in {folder} are: {', '.join(_tables(folder)) or 'none'}")


class PresetAction(argparse.Action):
    """Shows ``--preset`` in the help. :func:`expand_preset` replaces the option before parsing."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, default=argparse.SUPPRESS, metavar="NAME", help=help)

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> NoReturn:
        """Reject an abbreviated ``--preset``. :func:`expand_preset` has already replaced the full option."""
        parser.error("write --preset in full")


def _sort(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Split the arguments after a subcommand into values of ``--config``, values of ``--preset`` and all others."""
    configs: list[str] = []
    presets: list[str] = []
    others: list[str] = []
    lists = {"--config": configs, "-c": configs, "--preset": presets}
    left = iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if option not in lists:
            others.append(word)
            continue
        value = value if equals else next(left, "")
        if not value or value.startswith("-"):
            raise InputError(f"{option} needs a value, as in --config configs/table1/c_fpn.yaml --preset mini")
        lists[option].append(value)
    return configs, presets, others


def _check_config(config: str) -> None:
    """Reject a file that is not a configuration, and a file of a preset, which has to be given as ``--preset``."""
    path = Path(config)
    if config.lstrip().startswith("{"):
        parse_yaml(config, "--config")
        return
    if "://" in config:
        return  # the parser reads it
    if path.suffix not in (".yaml", ".yml"):
        _read(path)
        return
    absolute = find_row(path).resolve()
    _check_form(path, _read(absolute))
    for folder in absolute.parents:
        preset = absolute.relative_to(folder).parts[0].removesuffix(path.suffix)
        if folder.name == "presets" and (folder / f"{preset}.yaml").is_file():
            raise InputError(f"--config {config} is a file of a preset: give --preset {preset}, which reads all files")


def _check_form(path: Path, content: dict[str, Any]) -> None:
    """Reject the configuration of a run from before ``model.detector`` existed.

    In an old configuration, the parts of the model are arguments of the stage.
    """
    model, experiment = (content.get(key) for key in ("model", "experiment"))
    arguments = model.get("init_args") if isinstance(model, dict) else None
    if isinstance(arguments, dict) and (old := sorted(OLD_KEYS & arguments.keys())):
        names = experiment if isinstance(experiment, dict) else {}
        row = f"configs/{names.get('table', 'TABLE')}/{names.get('row', 'ROW')}.yaml"
        raise InputError(
            f"{path}: model.init_args.{old[0]}: this is the configuration of an older run. The parts of the model are "
            f"under model.init_args.detector now. Use --config {row} with the run's preset and --ckpt_path."
        )


def _names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml") if not file.name.startswith("."))


def _tables(folder: Path) -> list[str]:
    files = [file for pattern in ("figure*/**/*.yaml", "table*/**/*.yaml") for file in folder.glob(pattern)]
    return sorted({str(file.parent.relative_to(folder)) for file in files})


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} does not contain a mapping of keys to values, so it is not a configuration")
    return content
