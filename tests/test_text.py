"""Names from files are shown as text: on a terminal, on a page, as a folder."""

from __future__ import annotations

import html
import io
import re
import sys

import pytest

from fpn_lightning.errors import InputError, complain
from fpn_lightning.text import is_folder_name, markdown, plain, replace_unprintable, show
from tests.command_line import REPOSITORY

HOSTILE = "\x1b[2J\x1b[31m[/] [bold red]x[/]\n<script>alert(1)</script> | **b** [a](http://e) \u202e`c` _d_"


def test_control_characters_become_escapes():
    assert plain("\x1b[31mred\r\nnext\u202e\udc80") == r"\x1b[31mred\r\nnext\u202e\udc80"
    assert plain("§ 5.1: 2 × é, 貓 [5×5]") == "§ 5.1: 2 × é, 貓 [5×5]"


def test_markdown_shows_just_the_text():
    shown = markdown(HOSTILE)
    assert not set("<>|*[]`\n\x1b\\") & set(shown)
    assert html.unescape(shown) == plain(HOSTILE)
    assert markdown("CPU, 1 × 2 threads, x86_64; faster-coco-eval 1.8") == (
        "CPU, 1 × 2 threads, x86_64; faster-coco-eval 1.8"
    )


def test_messages_and_lines_are_one_line_without_markup(capsys):
    assert complain(InputError(HOSTILE)) == 2
    show(HOSTILE)
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert text.count("\n") == 1
        assert "\x1b" not in text
        assert "[/] [bold red]x[/]" in text


def test_a_message_about_a_very_long_name_is_cut_in_the_middle(capsys):
    complain(InputError(f"record.json: metrics.{'n' * 10**6}: is not a number"))
    printed = capsys.readouterr().err
    assert len(printed) < 2100
    assert printed.startswith("error: record.json: metrics.n")
    assert printed.endswith("n: is not a number\n")


def test_every_text_file_is_opened_as_utf8():
    unsaid = re.compile(r"\.(read_text\(\)|write_text\([^)]*\)$|open\((\"[rwa]\")?\))")
    for folder in ("fpn_lightning", "benchmarks", "workflow"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            lines = file.read_text(encoding="utf-8").splitlines()
            assert not [line for line in lines if unsaid.search(line) and "encoding" not in line], file


@pytest.mark.parametrize("name", ["table1", "table5/steps", "c_fpn+2", "lr0.02"])
def test_names_of_folders(name):
    assert is_folder_name(name)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../b", "/etc", ".hidden", "a\n", "a b", "a//b", "n" * 300])
def test_names_that_cannot_be_folders(name):
    assert not is_folder_name(name)


def test_what_the_terminal_cannot_show_is_replaced(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="latin-1"))
    replace_unprintable()
    print("§ ━")
    sys.stdout.flush()
    assert content.getvalue() == "§ ?\n".encode("latin-1")
