"""Checks whether the records of runs have the same data, schedule, object sizes and configuration."""

from __future__ import annotations

from collections.abc import Iterable

from fpn_lightning.runs.record import Record

SEEDLESS_DIGEST = 2
"""Lowest ``schema`` of records whose ``config_sha256`` does not depend on the seed. Only from this schema on can the
digests of runs with different seeds be compared."""
_DIGESTS = ("data.fingerprint", "config_sha256")


def _conditions(record: Record) -> dict[str, str]:
    """Return the values that must be equal in comparable runs, as a dictionary from key in the record to text.

    Values that the record lacks are omitted.
    """
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
    """Find the keys whose values differ between records, but must be equal in comparable runs.

    Digests of configurations are compared only between records of ``schema`` 2 and later.

    Returns:
        For each key with different values, a dictionary that maps each value to the records with this value. Digests
        are cut to 12 digits.
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


def why_not_add(kept: Record, new: Record) -> list[str]:
    """Return the reasons why a new record cannot be averaged with ``kept``.

    ``kept`` is a record of the same row with another seed, and is already in ``reports/records/``.
    """
    found = differing((kept, new)).items()
    return [f"{key} is {new_value}, but {old} in the row's earlier records" for key, (old, new_value) in found]


def why_not_replace(kept: Record, new: Record) -> list[str]:
    """Return the reasons why a new record must not replace the same experiment's record in ``reports/records/``."""
    reasons = []
    for key, values in differing((kept, new)).items():
        before, after = values
        reasons.append(f"{key} is {after} and was {before}")
    if min(kept.schema, new.schema) >= SEEDLESS_DIGEST:
        return reasons
    if kept.schema != new.schema:
        reasons.append(
            f"config_sha256 cannot be compared: schema {new.schema} computes it differently from schema {kept.schema}"
        )
    elif kept.config_sha256 != new.config_sha256:  # equal seeds, so digests of schema 1 can be compared, too
        reasons.append(f"config_sha256 is {new.config_sha256[:12]} and was {kept.config_sha256[:12]}")
    return reasons
