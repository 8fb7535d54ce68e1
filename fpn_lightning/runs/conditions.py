"""Whether runs were made under the same conditions: same data, schedule, size classes and configuration."""

from __future__ import annotations

from collections.abc import Iterable

from fpn_lightning.runs.record import Record

SEEDLESS_DIGEST = 2
"""From this ``schema`` on, ``config_sha256`` is taken without the seed, so that it can be compared between seeds."""
_DIGESTS = ("data.fingerprint", "config_sha256")


def _conditions(record: Record) -> dict[str, str]:
    """What has to be the same, as text, by key of the record; a value that the record does not hold is left out."""
    data, train = record.data, record.train
    found = {
        "data.name": data.name,
        "data.split": data.split,
        "data.fingerprint": data.fingerprint,
        "data.num_images": str(data.num_images),
        "train.steps": str(train.steps),
        "train.total_batch": str(train.total_batch),
        "area_thresholds": " and ".join(f"{area:g}" for area in record.area_thresholds),
    }
    if train.num_images is not None:
        found["train.num_images"] = str(train.num_images)
    if record.schema >= SEEDLESS_DIGEST:
        found["config_sha256"] = record.config_sha256
    return found


def differing(records: Iterable[Record]) -> dict[str, dict[str, list[Record]]]:
    """What is not the same for all records.

    Digests of configurations are compared between records of ``schema`` 2 and later only.

    Returns:
        By key of the record, the records that have each value; long digests are cut to 12 digits.
    """
    found: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        for key, value in _conditions(record).items():
            found.setdefault(key, {}).setdefault(value, []).append(record)
    return {
        key: {value[:12] if key in _DIGESTS else value: having for value, having in values.items()}
        for key, values in found.items()
        if len(values) > 1
    }


def why_not_replace(kept: Record, new: Record) -> list[str]:
    """What speaks against replacing a kept record by a new one of the same experiment; empty if nothing does."""
    reasons = []
    for key, values in differing((kept, new)).items():
        before, after = values
        reasons.append(f"{key} is {after} and was {before}")
    if min(kept.schema, new.schema) >= SEEDLESS_DIGEST:
        return reasons
    if kept.schema != new.schema:
        reasons.append(
            f"config_sha256 cannot be compared: it is of schema {new.schema} and was of schema {kept.schema}, which "
            "is taken otherwise"
        )
    elif kept.config_sha256 != new.config_sha256:  # taken with the seed, which is the same here
        reasons.append(f"config_sha256 is {new.config_sha256[:12]} and was {kept.config_sha256[:12]}")
    return reasons
