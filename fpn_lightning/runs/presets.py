"""``--preset NAME``: a row at another scale, by one flag.

A preset is ``presets/<name>.yaml`` beside the folders of the rows, with what it sets for one stage
(``presets/<name>/rpn.yaml``) and for one row (``presets/<name>/table1/f_finest.yaml``). The command line is rewritten
before it is parsed: all files of the preset that concern the row, which is the first ``--config``, stand behind it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from fpn_lightning.errors import InputError
from fpn_lightning.paper import paper_tables

SUBCOMMANDS = ("fit", "validate", "test", "predict")
PAPER = "paper"
"""The preset of a row without any: no file, the paper's scale."""
# Names of the files that a preset may have for a stage, by the stage's class.
STAGES = {
    "RPNStage": "rpn",
    "FastRCNNStage": "fast_rcnn",
    "FasterRCNNStage": "faster_rcnn",
    "MaskProposalStage": "mask_proposals",
}


def expand_preset(args: Sequence[str]) -> list[str]:
    """Rewrite a command line so that it names the files of its preset.

    With ``--preset`` the configs come first (row, preset, what the preset sets for the row's stage, for the row, then
    any further ``--config``), and all other arguments follow, so that single values win wherever they stood. Without
    it the arguments stay as they are.

    Args:
        args: arguments of the program, subcommand included.

    Raises:
        InputError: a config that does not exist, a file of a preset given as ``--config``, an unknown preset, or one
            that cannot be combined with the first ``--config``.
    """
    place = next((number for number, word in enumerate(args) if word in SUBCOMMANDS), len(args))
    configs, presets, others = _sort(args[place + 1 :])
    for config in configs:
        _check_config(config)
    if not presets:
        return list(args)
    if len(presets) > 1:
        raise InputError(f"--preset is given {len(presets)} times ({', '.join(presets)}); give one")
    if configs:
        row = find_row(Path(configs[0]))
        configs[1:1] = map(str, preset_files(row, presets[0]))
    elif not {"-h", "--help"} & set(others):
        raise InputError(f"--preset {presets[0]} scales a row: give its file, --config configs/table1/c_fpn.yaml")
    return [*args[: place + 1], *(f"--config={config}" for config in configs), *others]


def preset_files(row: Path, preset: str) -> list[Path]:
    """Files of a preset that a row is read with, in order: the preset, its part for the stage, its part for the row.

    Args:
        row: file of the row.
        preset: name of the preset; ``paper`` has no files.

    Raises:
        InputError: there is no such preset (names those that exist), the file is no row, or it is the complete
            configuration of a run, which has its preset in it.
    """
    content = _read(row)
    experiment, model = ({**(content.get(key) or {})} for key in ("experiment", "model"))
    stage = model.get("class_path")
    if named := experiment.get("preset"):
        raise InputError(f"{row} is a complete configuration of preset {named}: leave out --preset {preset}")
    if stage is None:
        raise InputError(f"{row} has no model.class_path, so it is no row; --preset needs the row as first --config")
    if preset == PAPER:
        return []
    folder = config_folder(row) / "presets"
    if not (folder / f"{preset}.yaml").is_file() or "/" in preset:
        there = ", ".join([PAPER, *_names(folder)])
        raise InputError(f"--preset {preset}: no {folder / preset}.yaml; there are: {there}")
    parts = [
        folder / preset / f"{STAGES.get(str(stage).rpartition('.')[2])}.yaml",
        folder / preset / f"{experiment.get('table')}" / f"{experiment.get('row')}.yaml",
    ]
    return [folder / f"{preset}.yaml", *filter(Path.is_file, parts)]


def config_folder(row: Path) -> Path:
    """The folder of rows and presets that a file belongs to: the nearest that holds ``presets/``, else ``configs``."""
    above = (*row.parents, *row.absolute().parents)
    return next((folder for folder in above if (folder / "presets").is_dir()), Path("configs"))


def find_row(path: Path) -> Path:
    """The file of a row, as it was given.

    Raises:
        InputError: it does not exist; names the rows that do, or the row whose runs stand in for it.
    """
    if path.is_file():
        return path
    table, row = path.parent.name, path.stem
    printed = paper_tables()[table].rows.get(row) if table in paper_tables() else None
    if printed is not None and printed.same_as:
        twin = printed.same_as
        raise InputError(
            f"{table}/{row} is the model of {twin}, which is run once for both: "
            f"--config {path.parent.parent / twin}.yaml, or make row ROW={twin}"
        )
    if path.parent.is_dir():
        raise InputError(f"no {path}; there are: {', '.join(_names(path.parent)) or 'none'}")
    folder = next((above for above in path.parents if above.is_dir() and _tables(above)), Path("configs"))
    raise InputError(f"no {path}; the tables in {folder} are: {', '.join(_tables(folder)) or 'none'}")


class PresetAction(argparse.Action):
    """Shows ``--preset`` in the help; :func:`expand_preset` has replaced it before anything is parsed."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, default=argparse.SUPPRESS, metavar="NAME", help=help)

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> NoReturn:
        """Reached by an abbreviation only."""
        parser.error("write --preset in full")


def _sort(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Part the arguments behind a subcommand: values of ``--config``, values of ``--preset``, all others."""
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
    """Reject a file that does not exist, and a preset's file: without its other parts it would be half a preset."""
    path = Path(config)
    if path.suffix not in (".yaml", ".yml") or "://" in config or config.lstrip().startswith("{"):
        return  # a mapping in place of a file, or a file elsewhere: the parser's matter
    absolute = find_row(path).resolve()
    for folder in absolute.parents:
        preset = absolute.relative_to(folder).parts[0].removesuffix(path.suffix)
        if folder.name == "presets" and (folder / f"{preset}.yaml").is_file():
            raise InputError(f"--config {config} is a part of a preset: give --preset {preset}, which reads every part")


def _names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _tables(folder: Path) -> list[str]:
    files = [file for pattern in ("figure*/**/*.yaml", "table*/**/*.yaml") for file in folder.glob(pattern)]
    return sorted({str(file.parent.relative_to(folder)) for file in files})


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}
