"""The CSV log grows by lines and columns, and a resumed run continues it."""

import csv

from fpn_lightning.runs.csv_log import AppendingCSVLogger


def rows(path):
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_lines_are_appended_and_columns_added(tmp_path):
    logger = AppendingCSVLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.1, "epoch": 0}, step=0)
    logger.log_metrics({"train/loss": 0.2}, step=1)
    logger.log_metrics({"val/AR100": 0.5}, step=2)
    expected = [
        {"step": "0", "train/loss": "0.1"},
        {"step": "1", "train/loss": "0.2"},
        {"step": "2", "val/AR100": "0.5"},
    ]
    assert rows(tmp_path / "metrics.csv") == expected
    assert logger.curves() == {"train/loss": [(0, 0.1), (1, 0.2)], "val/AR100": [(2, 0.5)]}


def test_another_logger_continues_the_file(tmp_path):
    AppendingCSVLogger(tmp_path).log_metrics({"train/loss": 0.1}, step=0)
    AppendingCSVLogger(tmp_path).log_metrics({"val/AR100": 0.5}, step=1)
    assert len(rows(tmp_path / "metrics.csv")) == 2


def test_an_unfinished_line_is_dropped(tmp_path):
    """A full disk or a power cut may cut the last line anywhere, also within the number of its step."""
    path = tmp_path / "metrics.csv"
    logger = AppendingCSVLogger(tmp_path)
    for step in (0, 10):
        logger.log_metrics({"train/loss": 0.125}, step=step)
    for length in range(1, len("10,0.125")):
        path.write_text("step,train/loss\n0,0.125\n" + "10,0.125"[:length])
        logger = AppendingCSVLogger(tmp_path, resume_step=20)
        logger.log_metrics({"train/loss": 0.25}, step=11)
        assert path.read_text() == "step,train/loss\n0,0.125\n11,0.25\n"


def test_resuming_drops_lines_that_will_be_computed_again(tmp_path):
    logger = AppendingCSVLogger(tmp_path)
    for step in range(5):
        logger.log_metrics({"train/loss": float(step)}, step=step)
    logger.log_metrics({"val/AR100": 0.5}, step=3)
    # The checkpoint was written after 3 steps (0, 1, 2), and validation at 3 saw its weights.
    resumed = AppendingCSVLogger(tmp_path, resume_step=3)
    resumed.log_metrics({"train/loss": 30.0}, step=3)
    resumed.log_metrics({"val/AR100": 0.5}, step=3)  # repeated: no second line
    kept = rows(tmp_path / "metrics.csv")
    assert [row.get("train/loss") for row in kept] == ["0.0", "1.0", "2.0", None, "30.0"]
    assert kept[3] == {"step": "3", "val/AR100": "0.5"}
