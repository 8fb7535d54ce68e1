"""No module of the package imports one that imports it in turn, not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.command_line import REPOSITORY

PACKAGE = "fpn_lightning"
# Circles that are still to be cut: the weights know a stage, which knows them.
KNOWN = {("fpn_lightning.weights.checkpoints", "fpn_lightning.stages.faster_rcnn")}
KNOWN |= {("fpn_lightning.weights.detectron2", "fpn_lightning.stages.faster_rcnn")}
KNOWN |= {("fpn_lightning.weights.checkpoints", "fpn_lightning.weights.init_from")}


def modules(root: Path) -> dict[str, Path]:
    """The package's modules below ``root``, by name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(node: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that are imported anywhere below ``node``, but for ``if TYPE_CHECKING``."""
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
    """What each module imports; the ``__init__`` of a room is a module like any other, that of the package is lazy."""
    known = modules(root)
    graph = {name: set(imported(ast.parse(path.read_text()), known)) for name, path in known.items()}
    return {name: {other for other in others if other != PACKAGE} - {name} for name, others in graph.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle in the order of import; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_there_is_no_circle_but_those_known():
    graph = import_graph(REPOSITORY)
    assert len(graph) > 100
    assert (
        circle({name: {other for other in others if (name, other) not in KNOWN} for name, others in graph.items()})
        == []
    )


def test_the_known_circles_are_still_there():
    graph = import_graph(REPOSITORY)
    for edge in KNOWN:
        without = {
            name: {other for other in others if (name, other) not in KNOWN - {edge}} for name, others in graph.items()
        }
        assert circle(without), f"{edge} is in no circle any more: take it out of KNOWN"


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
def test_circles_are_found_wherever_the_import_stands(text: str, round: bool, tmp_path: Path):
    (tmp_path / PACKAGE).mkdir()
    for name, content in {"__init__": "", "a": text, "b": "from fpn_lightning.a import other"}.items():
        (tmp_path / PACKAGE / f"{name}.py").write_text(content)
    assert bool(circle(import_graph(tmp_path))) == round
