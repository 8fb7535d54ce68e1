"""The command: what it collects, writes and prints, and what it leaves alone."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting import __main__ as command
from fpn_lightning.reporting.collection import wandb_runs
from fpn_lightning.reporting.summary import summarise
from fpn_lightning.reporting.terminal import show
from fpn_lightning.runs.record import Record
from tests.command_line import REPOSITORY
from tests.records import a_record
from tests.reporting.builders import OnlineApi, OnlineRun, files, save_runs


def _run(tmp_path: Path, *arguments: str) -> int:
    return command.main(["--runs", str(tmp_path / "runs"), "--reports", str(tmp_path / "reports"), *arguments])


@pytest.fixture
def runs(tmp_path: Path) -> list[Record]:
    records = [
        a_record(),
        a_record("table1/d_bottom_up"),
        a_record("table2/c_fpn", metrics={"AP": 0.3}),
        a_record(preset="quickstart", untrained={"AR100": 0.01}),
    ]
    save_runs(records, tmp_path / "runs")
    (tmp_path / "runs/mini/table1/f_finest/seed0").mkdir(parents=True)
    return records


def test_collects_renders_and_repeats_also_in_a_fresh_clone(tmp_path: Path, runs: list[Record], capsys) -> None:
    assert _run(tmp_path) == 0
    printed = capsys.readouterr().out.replace("\n", "")
    assert "4 finished runs" in printed
    assert f"unfinished or replaced run, not copied: {tmp_path / 'runs/mini/table1/f_finest/seed0'}" in printed
    assert "(d) bottom-up pyramid" in printed
    first = files(tmp_path / "reports")
    names = {
        f"{page}.{suffix}" for page in ("mini/table1", "mini/table2", "quickstart/table1") for suffix in ("csv", "md")
    }
    names |= {name.replace(".md", ".tex") for name in names}
    names |= {"mini/table1_gaps.svg", "mini/table1_proposals.svg"}  # two rows were run, without object sizes
    assert {name for name in first if not name.startswith("records/")} == names
    assert len(first) == len(names) + len(runs)
    assert _run(tmp_path) == 0
    assert files(tmp_path / "reports") == first
    for name in first:
        if name.startswith("records/"):
            (tmp_path / "clone/reports" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "clone/reports" / name).write_bytes(first[name])
    assert _run(tmp_path / "clone") == 0
    assert files(tmp_path / "clone/reports") == first


@pytest.fixture
def rerun(tmp_path: Path, runs: list[Record], capsys) -> dict[str, bytes]:
    """The kept records, after which the same rows were run again with another configuration."""
    assert _run(tmp_path) == 0
    save_runs([replace(run, config_sha256="1" * 64, metrics={"AR100": 0.9}) for run in runs], tmp_path / "runs")
    capsys.readouterr()
    return files(tmp_path / "reports/records")


def test_a_kept_record_of_another_configuration_is_left_alone(tmp_path: Path, rerun, capsys) -> None:
    pages = files(tmp_path / "reports")
    assert _run(tmp_path) == 0
    assert files(tmp_path / "reports") == pages
    printed = capsys.readouterr().out.replace("\n", "")
    name = tmp_path / "reports/records/mini/table1/c_fpn/seed0.json"
    assert f"{name}; the finished run differs from this record: config_sha256 is 111111111111 and was 0000" in printed
    assert "Records that were not replaced: 4." in printed
    assert "--preset mini quickstart --replace" in printed
    assert _run(tmp_path, "--preset", "8gpu") == 2
    assert "presets with records: mini, quickstart" in capsys.readouterr().err


def test_replace_is_limited_to_the_presets_named(tmp_path: Path, rerun: dict[str, bytes]) -> None:
    assert _run(tmp_path, "--preset", "quickstart", "--replace") == 0
    now = files(tmp_path / "reports/records")
    assert [name for name in now if now[name] != rerun[name]] == ["quickstart/table1/c_fpn/seed0.json"]
    assert "90.0" in (tmp_path / "reports/quickstart/table1.md").read_text()
    assert _run(tmp_path, "--replace") == 0
    now = files(tmp_path / "reports/records")
    assert now.keys() == rerun.keys()
    assert all(now[name] != rerun[name] for name in now)


def test_make_quickstart_replaces_the_records_of_its_own_preset_only() -> None:
    commands = [line for line in (REPOSITORY / "Makefile").read_text().splitlines() if "--replace" in line]
    assert [command.split("fpn_lightning.reporting ")[1] for command in commands] == ["--preset quickstart --replace"]


def test_a_row_whose_runs_differ_is_named_and_not_averaged(tmp_path: Path, runs: list[Record], capsys) -> None:
    save_runs([a_record(seed=1, steps=300, metrics={"AR100": 0.123})], tmp_path / "runs")
    assert _run(tmp_path, "--preset", "mini", "--replace") == 0
    named = (
        "The runs of table1/c_fpn are not averaged and their numbers are not shown, because the runs differ: "
        "train.steps is 1500 (seed 0), 300 (seed 1). The records are records/mini/table1/c_fpn/seed0.json, "
        "records/mini/table1/c_fpn/seed1.json."
    )
    page = (tmp_path / "reports/mini/table1.md").read_text()
    assert f"> **Warning.** {named}" in page
    printed = capsys.readouterr().out
    assert f"Warning. {named}" in " ".join(printed.split())
    for text in (page, printed):
        assert re.search(r"^[| ] ?\(c\) FPN +\|? +mixed ", text, flags=re.MULTILINE)
        assert not re.search(r"12\.3|31\.1|50\.0 ±", text)
        assert "50.0" in text  # of row (d)
    assert "(c) FPN,AR100,44,,,0," in (tmp_path / "reports/mini/table1.csv").read_text()


def test_a_table_that_was_not_run_says_so_where_it_is_asked_for(tmp_path: Path, runs: list[Record]) -> None:
    assert _run(tmp_path, "--preset", "mini") == 0
    page = tmp_path / "reports/mini/table4.md"
    assert not page.exists()
    assert not (tmp_path / "reports/quickstart").exists()
    assert _run(tmp_path, "--preset", "mini", "--tables", "table4") == 0
    text = page.read_text(encoding="utf-8")
    assert "Our runs: no row of this table has been run with preset mini.\n" in text
    assert "The paper's table: “Single-model results" in text
    assert "Data:" not in text
    (line,) = re.findall(r"^\| Faster R-CNN on FPN +\| not run +\| +59\.1 .*$", text, flags=re.MULTILINE)
    assert re.findall(r"[\d.]+", line) == ["59.1", "36.2", "18.2", "39.0", "48.2"]  # the paper's, and none of ours
    assert re.search(r"^\| ION +\| literature \| +53\.4 \|", text, flags=re.MULTILINE)
    assert {path.suffix for path in page.parent.glob("table4.*")} == {".md", ".csv", ".tex"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "8gpu"), "--preset 8gpu: no records in .*; presets with records: none"),
        (("--source", "wandb"), "--source wandb needs --wandb-project"),
        ((), "train a row first"),
    ],
)
def test_wrong_arguments_and_nothing_to_render_end_in_one_message(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capfd
) -> None:
    assert _run(tmp_path, *arguments) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_weights_and_biases_gives_identical_tables(tmp_path: Path, runs: list[Record], monkeypatch) -> None:
    """The command line with a stand-in for the service: runs that hold the same metrics.json."""
    assert _run(tmp_path) == 0
    paths = sorted((tmp_path / "runs").rglob("metrics.json"))
    api = OnlineApi([OnlineRun(path.parent.name, path.read_bytes()) for path in paths])
    monkeypatch.setattr(command, "wandb_runs", lambda project: wandb_runs(project, api))
    online = tmp_path / "online"
    assert _run(online, "--source", "wandb", "--wandb-project", "team/fpn") == 0
    assert files(online / "reports") == files(tmp_path / "reports")


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_every_number_of_the_rows_that_were_run(width: int) -> None:
    keys = ("AR10", "AR30", "AR100_s", "AR100", "AR1k", "AR1k_s", "AR1k_m", "AR1k_l")
    values = {"c_fpn": 0.511, "d_bottom_up": 0.312}
    records = [
        a_record(f"table1/{row}", seed, metrics={key: value + n / 100 for n, key in enumerate(keys)})
        for row, value in values.items()
        for seed in (0, 1)
    ]
    summary = summarise("table1", "mini", paper_tables(), records)
    out = io.StringIO()
    show(summary, Console(file=out, width=width))
    assert max(len(line) for line in out.getvalue().splitlines()) <= width
    words = out.getvalue().split()
    ours = [f"{100 * value + n:.1f}" for value in values.values() for n in range(len(keys))]
    papers = [f"({number})" for number in summary.table.rows["c_fpn"].metrics.values()]
    assert set(ours + papers) <= set(words)
    text = " ".join(words)
    assert "Not run: (a) baseline on conv4; (b)" in text
    assert "comparisons of two rows in one column, " in text
    assert "36.1" not in text  # of a row that was not run


def test_reporting_imports_neither_torch_nor_lightning_nor_models(tmp_path: Path, runs: list[Record]) -> None:
    def loaded(script: str) -> list[str]:
        script = f"import sys\n{script}\nprint('LOADED', *sys.modules)"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.split("LOADED", 1)[1].split()

    heavy = {"torch", "lightning", "wandb", "fpn_lightning.models"}
    bare = heavy.intersection(loaded("import fpn_lightning"))
    assert not bare, f"fpn_lightning/__init__.py is not lazy: `import fpn_lightning` alone loads {bare}"
    names = loaded(
        "from fpn_lightning.reporting.__main__ import main\n"
        f"assert main(['--runs', {str(tmp_path / 'runs')!r}, '--reports', {str(tmp_path / 'reports')!r}]) == 0"
    )
    assert "fpn_lightning.reporting.tables" in names
    assert not heavy.intersection(names)


def test_without_a_wandb_login_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def rejected() -> None:
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "Api", rejected)
    assert _run(tmp_path, "--source", "wandb", "--wandb-project", "team/fpn") == 2
    error = capsys.readouterr().err
    assert error == ("error: --source wandb: No API key configured. Log in with `wandb login`, or set WANDB_API_KEY.\n")


def test_records_cannot_put_markup_on_a_page_or_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J[bold red]<script>x</script>\n# h | [a](http://e) **b**"
    data = replace(a_record().data, name=hostile, split=hostile)
    for row in ("c_fpn", "d_bottom_up"):
        record = a_record(
            f"table1/{row}", hardware=hostile, commit=hostile, backbone=hostile, data=data, versions={hostile: hostile}
        )
        record.save(tmp_path / "runs" / record.experiment.path / "metrics.json")
    assert _run(tmp_path) == 0
    printed = capsys.readouterr()
    assert "\x1b[2J" not in printed.out + printed.err
    page = (tmp_path / "reports/mini/table1.md").read_text()
    for harmful in ("\x1b", "<script", "[a](http", "**b**", "\n# h"):
        assert harmful not in page
    assert r"\x1b&#91;2J&#91;bold red&#93;&lt;script" not in page  # entities are numbers
    assert "&#60;script&#62;x" in page


def test_a_table_of_ones_own_cannot_be_written_outside_its_folder(
    tmp_path: Path, runs: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reports/tables").mkdir(parents=True)
    table = "{title: t, ours: true, columns: [{key: AR100}], reference: c_fpn, rows: {c_fpn: {label: FPN}}}"
    (tmp_path / "reports/tables/mine.yaml").write_text(f"../../mine: {table}\n")
    assert _run(tmp_path) == 2
    assert "'../../mine' cannot be a file name" in capsys.readouterr().err
