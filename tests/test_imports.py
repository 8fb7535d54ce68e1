"""The package has no circular imports, not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.command_line import REPOSITORY

PACKAGE = "fpn_lightning"


def modules(root: Path) -> dict[str, Path]:
    """The package's modules below ``root``, by name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(node: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that are imported anywhere below ``node``, except under ``if TYPE_CHECKING``."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield from (name for name in (f"{node.module}.{alias.name}", str(node.module)) if name in known)
    for child in children:
        yield from imported(child, known)


def import_graph(root: Path) -> dict[str, set[str]]:
    """The imports of each module. The package's own ``__init__`` is left out, since it imports lazily."""
    known = modules(root)
    graph = {name: set(imported(ast.parse(path.read_text()), known)) for name, path in known.items()}
    return {name: {other for other in others if other != PACKAGE} - {name} for name, others in graph.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle in the order of import; empty without a circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def folders(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph of the folders of the package; each module of its root counts as a folder."""
    inner = {name.rpartition(".")[0] for name in graph}

    def folder(name: str) -> str:
        first_two = ".".join(name.split(".")[:2])
        return first_two if first_two in inner else name

    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        found.setdefault(folder(name), set()).update(folder(other) for other in others if folder(other) != folder(name))
    return found


def test_modules_and_folders_do_not_import_each_other_in_circles():
    graph = import_graph(REPOSITORY)
    assert len(graph) > 100
    assert circle(graph) == []
    between = folders(graph)
    assert "fpn_lightning.models" in between["fpn_lightning.stages"]
    assert circle(between) == []


def test_models_do_not_import_lightning_and_reporting_does_not_import_models():
    between = folders(import_graph(REPOSITORY))
    packages = {"fpn_lightning.data", "fpn_lightning.models", "fpn_lightning.stages", "fpn_lightning.weights"}
    assert not between["fpn_lightning.reporting"] & packages
    for path in (REPOSITORY / PACKAGE / "models").rglob("*.py"):
        assert "lightning.pytorch" not in path.read_text(), path


def test_every_module_that_is_imported_exists():
    # mypy ignores imports of untyped packages, and with them imports of deleted modules.
    known = modules(REPOSITORY)
    for path in [*known.values(), *(REPOSITORY / "tests").rglob("*.py"), *(REPOSITORY / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == PACKAGE:
                assert node.module in known, f"{path}: {node.module}"


@pytest.mark.parametrize(
    ("text", "round"),
    [
        ("from fpn_lightning.b import thing", True),
        ("from fpn_lightning import b", True),
        ("import fpn_lightning.b", True),
        ("def draw():\n    if True:\n        from fpn_lightning import b", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fpn_lightning import b", False),
        ("import json", False),
    ],
)
def test_circles_are_found_in_every_kind_of_import(text: str, round: bool, tmp_path: Path):
    (tmp_path / PACKAGE).mkdir()
    for name, content in {"__init__": "", "a": text, "b": "from fpn_lightning.a import other"}.items():
        (tmp_path / PACKAGE / f"{name}.py").write_text(content)
    assert bool(circle(import_graph(tmp_path))) == round
