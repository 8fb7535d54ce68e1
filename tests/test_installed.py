"""An installed wheel is complete: it configures a run as the checkout does."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.test_config import printed
from tests.command_line import REPOSITORY, ROW

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def call(*command: str, cwd: Path, path: Path | None = None) -> str:
    """Output of a program that reads nothing of the checkout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    environment.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package's wheel is installed into."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # a build leaves files behind
    shutil.copytree(
        REPOSITORY / "fpn_lightning", source / "fpn_lightning", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    offline = ("--no-index", "--no-deps")
    call(*PIP, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(source), cwd=folder)
    (wheel,) = folder.glob("*.whl")
    call(*PIP, "install", *offline, "--target", str(folder / "site"), str(wheel), cwd=folder)
    return folder / "site"


def test_every_file_of_the_package_is_installed(installed):
    def files(root: Path) -> set[str]:
        found = (path for path in (root / "fpn_lightning").rglob("*") if path.is_file())
        return {str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts}

    assert files(installed) == files(REPOSITORY)
    assert {f"fpn_lightning/{name}" for name in ("base.yaml", "py.typed", "paper.yaml")} <= files(installed)


def test_the_installed_command_configures_a_run_as_the_checkout_does(installed, cli, capsys, tmp_path):
    command = (sys.executable, str(installed / "bin" / "fpn-lightning"))
    options = ("fit", "--config", str(ROW), "--preset", "mini")
    found = yaml.safe_load(call(*command, *options, "--print_config", cwd=tmp_path, path=installed))
    assert found == printed(cli, capsys, *options)
    assert found["checkpoint"]["save_last"] is True  # of base.yaml
    whose = call(sys.executable, "-c", "import fpn_lightning as f; print(f.__file__)", cwd=tmp_path, path=installed)
    assert Path(whose.strip()).is_relative_to(installed)


@pytest.mark.parametrize("start", ["train", "fpn_lightning.__main__"])
def test_threads_wait_asleep_whichever_way_it_is_started(start):
    program = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('OMP_WAIT_POLICY'))\n"
        "            sys.meta_path.remove(self)\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"import {start}\n"
    )
    assert call(sys.executable, "-c", program, cwd=REPOSITORY) == "PASSIVE\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_the_memory_of_a_freed_tensor_is_used_again():
    program = (
        "import resource, torch\n"
        "from fpn_lightning import __main__, cli\n"
        "cli.main = lambda: None\n"
        "__main__.main()\n"
        "def pages():\n"
        "    for _ in range(5):\n"
        "        torch.ones(2**24)\n"  # 64 MiB, 16,384 pages
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "print(-pages() + pages())\n"
    )
    assert int(call(sys.executable, "-c", program, cwd=REPOSITORY)) < 1000
