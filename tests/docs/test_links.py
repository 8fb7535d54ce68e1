"""Files, headings and code that the pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.command_line import REPOSITORY
from tests.docs.commands import PAGES

ALL = [*PAGES, *(REPOSITORY / name for name in ("CONTRIBUTING.md", "DEVIATIONS.md", "reports/README.md"))]


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page: Path):
    for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.stem)
def test_files_in_backticks_exist(page: Path):
    folders = r"`((?:fpn_lightning|configs|tests|workflow|reports)/[\w/.]*)`"
    for name in re.findall(folders, page.read_text(encoding="utf-8")):
        assert (REPOSITORY / name).exists(), name


def test_a_loss_is_at_most_four_files_from_train_py():
    table = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| loss | files |")[1].split("## ")[0]
    rows = [re.findall(r"`([^`]+)`", line) for line in table.splitlines() if line.startswith("| `")]
    losses = {name for row in rows for name in row if name.startswith("loss_")}
    assert losses == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_mask_score"}
    for row in rows:
        row_file, stage, *models = [REPOSITORY / name for name in row if not name.startswith("loss_")]
        assert len(models) <= 2
        code = stage.read_text()
        name = re.search(r"class_path: fpn_lightning\.(\w+Stage)", row_file.read_text())[1]
        assert f"class {name}(" in code
        assert ".losses(" in code
        for loss in set(row) & losses:
            assert f'"{loss}"' in models[0].read_text()


def test_topics_that_code_names_are_rows_of_deviations():
    topics = set(re.findall(r"^\| ([^|]+?) \|", (REPOSITORY / "DEVIATIONS.md").read_text(), flags=re.MULTILINE))
    code = "".join(path.read_text() for path in (REPOSITORY / "fpn_lightning").rglob("*.py"))
    named = re.findall(r'DEVIATIONS\.md "([^"]+)"', code)
    assert len(named) > 4
    assert set(named) <= topics
