"""Reads the commands in the README and in docs, and checks each of them in a few seconds.

What a check does depends on the program. A checkout of its own is the working directory (see ``conftest.py``).

- ``train.py``: the command is parsed with ``--print_config``, so every flag, config file, key and class has to exist.
  A run's ``config.yaml`` is the configuration of its row and preset. Placeholders (``FOLDER``, ``PATH.pth``, ``DATA``)
  may name anything.
- ``python -m MODULE``: the module's own parser reads the arguments. The scorer, the reports and the generated data run
  for real, on five images or on two records.
- ``make``: ``make -n`` has to know the target. For ``make row``, the workflow has to know the row and the preset.
- ``snakemake``: a dry run.
- Programs of others (``wandb``, ``pip``): the program and the optional dependency have to exist.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import yaml

from fpn_lightning import cli
from tests.command_line import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RUN_CONFIG = re.compile(r"runs/(?P<preset>[^/]+)/(?P<table>.+)/(?P<row>[^/]+)/seed\d+/config\.yaml")
SUBCOMMANDS = ("fit", "validate", "test", "predict")
# Modules whose commands run for real, with arguments that make them small.
SMALL = {
    "fpn_lightning.data.synthetic": ["--train", "3", "--val", "2", "--size", "64", "--workers", "1"],
    "fpn_lightning.evaluation": [],
    "fpn_lightning.reporting": [],
}
# Words of a command that needs a network or a finished run, or only prints.
PARSED_ONLY = ("--source", "--help", "runs/")


@dataclass(frozen=True)
class Command:
    """A command of a page."""

    page: str
    line: int
    words: tuple[str, ...]
    """Without comment, with the values of shell variables."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {' '.join(self.words)}"


def commands_of(page: Path) -> Iterator[Command]:
    """Commands in the ``bash`` blocks of a page, in order; shell variables are replaced by their values."""
    name, inside, start, text = str(page.relative_to(REPOSITORY)), False, 0, ""
    variables: dict[str, str] = {}
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            inside = line == "```bash"
            continue
        if not inside:
            continue
        start = start or number
        text += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        words = shlex.split(text, comments=True)
        start_of, text, start = start, "", 0
        if len(words) == 1 and "=" in words[0]:
            variable, _, value = words[0].partition("=")
            variables[variable] = value
        elif words:
            for variable, value in variables.items():
                words = [word.replace(f"${variable}/", f"{value}/") for word in words]
            yield Command(name, start_of, tuple(words))


def check(words: tuple[str, ...], rows: ModuleType) -> None:
    """Check one command in the working directory.

    Args:
        words: the command.
        rows: ``workflow/rows.py``.

    Raises:
        AssertionError: if it is wrong, with the program's own message.
    """
    program, *arguments = words
    if words[:2] == ("python", "train.py") or program == "fpn-lightning":
        check_train(arguments[1:] if program == "python" else arguments)
    elif words[:2] == ("python", "-m"):
        check_module(words[2], list(words[3:]))
    elif program == "make":
        check_make(arguments, rows)
    elif program == ".venv/bin/snakemake":
        call(sys.executable, "-m", "snakemake", "--dry-run", *arguments)
    elif words[:2] == ("wandb", "sync"):
        assert importlib.util.find_spec("wandb")
    elif words[:2] == ("pip", "install"):
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert " ".join(words[2:]) in {f"-e .[{extra}]" for extra in extras}
    else:
        raise AssertionError(f"no check for {program}")


def check_train(arguments: list[str]) -> None:
    """Parse a command of ``train.py``, and write the configuration of a ``fit`` where the run would write it."""
    for word in arguments:
        if (run := RUN_CONFIG.fullmatch(word)) and not Path(word).exists():
            row = f"configs/{run['table']}/{run['row']}.yaml"
            write(word, train("fit", "--config", row, "--preset", run["preset"], "--print_config"))
    asks = "--help" in arguments or "--model.help" in arguments
    printed = train(*arguments, *([] if asks else ["--print_config"]))
    if arguments[0] == "fit" and not asks:  # a later command may need it, and no row may have its name
        run = yaml.safe_load(printed)["experiment"]
        write(f"runs/{run['preset']}/{run['table']}/{run['row']}/seed0/config.yaml", printed)


def train(*arguments: str) -> str:
    """Output of ``train.py`` in this process, for arguments that end before a run starts."""
    with (
        redirect_stdout(StringIO()) as printed,
        mock.patch.object(cli, "complain", fail),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(list(arguments))
    assert stop.value.code == 0, f"train.py {shlex.join(arguments)} ends with status {stop.value.code}"
    return printed.getvalue()


def fail(error: BaseException) -> None:
    """Raise what the command line would print."""
    raise AssertionError(str(error)) from error


def check_module(name: str, arguments: list[str]) -> None:
    """Run a module's command if it is small, else only parse its arguments."""
    assert importlib.util.find_spec(name), f"no module {name}"
    parse = argparse.ArgumentParser.parse_args

    def parse_and_exit(parser: argparse.ArgumentParser, given: list[str] | None = None) -> None:
        parse(parser, given)
        raise SystemExit(0)

    if name in SMALL and not any(part in word for word in arguments for part in PARSED_ONLY):
        arguments = [*(re.sub(r"=\d+$", "=2", word) for word in arguments), *SMALL[name]]
        parse_and_exit = parse
    given = [name, *arguments]
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_exit),
        mock.patch.object(sys, "argv", given),
    ):
        try:
            runpy.run_module(name, run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        else:
            status = 0
    assert status == 0, f"{shlex.join(given)} ends with status {status}"


def check_make(arguments: list[str], rows: ModuleType) -> None:
    """Check the target with ``make -n``; of ``make row``, check the row and the preset instead."""
    values = dict(word.split("=", 1) for word in arguments if "=" in word)
    known = set(re.findall(r"^(\w+) \?=", Path("Makefile").read_text(), flags=re.MULTILINE)) | {"ROW"}
    assert values.keys() <= known, f"make does not read {values.keys() - known}"
    if arguments[0] == "row":
        table, _, row = values["ROW"].rpartition("/")
        run = rows.Run(values["PRESET"], table, row, int(values["SEED"]))
        assert run.configs()
        assert run.command()
        assert run.needs() is not None
        return
    # Nothing is installed, and Snakemake is not started (the Makefile starts its dry run even with -n).
    given = [f"VENV={sys.prefix}", f"--old-file={sys.prefix}/.ready", "SNAKEMAKE=snakemake"]
    call("make", "-n", *given, *arguments)


def call(*command: str) -> None:
    """Run a program; AssertionError with its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def write(path: str, text: str) -> None:
    """Write a file with its folders."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
