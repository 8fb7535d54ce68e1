"""Messages on the terminal."""

from fpn_lightning.errors import InputError, complain
from fpn_lightning.runs.console import print_metrics


def test_brackets_in_a_message_survive(capsys):
    assert complain(InputError("pip install fpn_lightning[timm]; sizes [3, 6]")) == 2
    assert "fpn_lightning[timm]; sizes [3, 6]" in capsys.readouterr().err


def test_metrics_are_shown_times_100_by_size(capsys, tmp_path):
    print_metrics("t", {"AR100": 0.4444, "AR100_s": None, "AR100_m": 0.5, "AR100_l": 1.0}, tmp_path / "metrics.json")
    out = capsys.readouterr().out
    assert "size classes: small ≤ 1024 px² ≤ medium ≤ 9216 px² ≤ large" in out
    line = next(line for line in out.splitlines() if "AR100" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == ["AR100", "44.4", "–", "50.0", "100.0"]
    assert "metrics.json" in out.replace("\n", "")
