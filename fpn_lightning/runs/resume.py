"""Compares the configuration of a resumed run with the configuration that the run was started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from fpn_lightning.errors import InputError
from fpn_lightning.files import read_yaml

# Config keys that may change without a warning when a run resumes: options of the machine, of folders and of logging.
_SILENT = {
    *(f"data.{key}" for key in ("root", "num_workers", "batch_size_per_device", "cache_images")),
    *("data.predict_split", "data.predict_path"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "default_root_dir")),
    *(f"trainer.{key}" for key in ("logger", "log_every_n_steps", "profiler", "max_time", "callbacks")),
    *(f"trainer.{key}" for key in ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")),
}
# A resumed run only warns if a key below has changed: this may be intended, and does not affect earlier steps.
_SAID = {
    *(f"trainer.{key}" for key in ("max_steps", "max_epochs", "min_steps", "min_epochs")),
    *(f"trainer.{key}" for key in ("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps")),
    *(f"trainer.{key}" for key in ("limit_val_batches", "limit_test_batches", "limit_predict_batches")),
    *(f"trainer.{key}" for key in ("deterministic", "benchmark", "detect_anomaly", "inference_mode", "fast_dev_run")),
}


def check_same_config(path: Path, resolved: dict[str, Any]) -> None:
    """Reject a resumed run if options of model, data or training have changed since the run was started.

    Options that are often changed on purpose, such as ``trainer.max_steps``, only give a warning. Options of the
    machine and of logging may change without a warning.

    Args:
        path: ``config.yaml`` of the run; nothing is checked if the file does not exist.
        resolved: the configuration with which the run resumes.

    Raises:
        InputError: if another option of model, data or training has changed. The message names the keys and both
            values of each.
    """
    if not path.exists():
        return
    started = read_yaml(path)
    if not isinstance(started, dict):
        raise InputError(f"{path} is not the configuration of a run. Start over with --experiment.overwrite true.")
    found: dict[str, str] = {}
    for group in ("model", "data", "trainer"):
        found |= _differences(started.get(group), resolved[group], group)
    changed = {key: text for key, text in found.items() if not _within(key, _SILENT)}
    if wrong := [text for key, text in changed.items() if not _within(key, _SAID)]:
        raise InputError(
            f"{path.parent} was started with other values: {'; '.join(wrong)}. Continue the run with its own "
            "config.yaml, or start over with --experiment.overwrite true"
        )
    if changed:
        rank_zero_warn(f"{path.parent} continues with other values: {'; '.join(changed.values())}")


def _within(key: str, keys: set[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def _differences(started: Any, now: Any, key: str) -> dict[str, str]:
    """Return the keys whose values differ, each with a text that contains both values."""
    if isinstance(started, dict) and isinstance(now, dict):
        found: dict[str, str] = {}
        for name in sorted(started.keys() | now.keys()):
            found |= _differences(started.get(name), now.get(name), f"{key}.{name}")
        return found
    return {} if started == now else {key: f"{key} is {now} and was {started}"}
