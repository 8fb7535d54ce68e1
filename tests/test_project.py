"""The files around the package agree with each other."""

import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from tests.command_line import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def locked() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name.lower().replace("_", "-"): next(iter(pin.specifier)).version for pin in pins}


def test_the_lock_pins_what_the_project_asks_for():
    pins = locked()
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), text


@pytest.mark.parametrize(("torch", "torchvision"), [("2.11.0", "0.26.0"), ("2.14.1", "0.29.1")])
def test_ranges_admit_older_and_newer_pairs(torch, torchvision):
    wanted = {Requirement(text).name: Requirement(text).specifier for text in PROJECT["dependencies"]}
    assert wanted["torch"].contains(torch)
    assert wanted["torchvision"].contains(torchvision)


def test_conda_environment_installs_the_lock():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, pip, extra = environment["dependencies"]
    assert Requirement(python.replace("=", "==")).specifier.contains("3.11")
    assert pip == "pip"
    assert extra["pip"] == ["-r requirements.lock", "-e ."]


def test_ci_and_readme_name_the_same_command():
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1]["run"] == "bash .ci/run"
    readme = (REPOSITORY / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"help", "quickstart", "test", "test-slow", "lint", "row", "report", "benchmark", "clean"} <= targets
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, flags=re.MULTILINE))
    assert {"quickstart", "test"} <= named <= targets


# Words that the project has replaced, and the files that cannot do without: records of before, the code that reads
# their key, and a call of timm, whose argument has the word in its name.
REPLACED = re.compile("tr" + "unk|over" + "lay", flags=re.IGNORECASE)
EXCEPTIONS = (
    "reports/records/",
    *("fpn_lightning/runs/record.py", "tests/runs/test_record.py", "fpn_lightning/models/backbones/timm.py"),
)


def test_replaced_words_do_not_come_back():
    files = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    wrong = []
    for name in files.stdout.splitlines():
        path = REPOSITORY / name
        if name.startswith(EXCEPTIONS) or path.suffix == ".png" or not path.is_file():
            continue
        text = f"{name}\n{path.read_text(encoding='utf-8')}"
        wrong += [f"{name}: {line.strip()}" for line in text.splitlines() if REPLACED.search(line)]
    assert not wrong, "\n".join(wrong)
