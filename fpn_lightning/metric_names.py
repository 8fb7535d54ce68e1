"""Builds and parses metric names such as ``AR1k_s``, and converts fractions to percent.

A name has an optional prefix (``segm_``, ``test_dev_``) and a base (``AP``, ``AP50``, ``AR100``, ``AR1k``). A metric of
one object size has a suffix: ``s``, ``m`` or ``l`` after ``AP``; ``_s``, ``_m`` or ``_l`` after ``AR100``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SIZES = {"s": "small", "m": "medium", "l": "large"}
"""COCO's object sizes, by the letter that stands for the size in metric names."""

COCO_AREAS = (32**2, 96**2)
"""COCO's area thresholds, px²: between small and medium objects, and between medium and large objects."""

AREA_SUFFIXES = ("", *(f"_{size}" for size in SIZES))
"""Suffixes of AR: first the suffix for all objects, then one suffix for each object size."""

_SPLIT_BY_SIZE = re.compile(r"(?:.*_)?(?:AP|AR\d+k?)")
_RECALL = re.compile(r"(?:.*_)?AR(?P<count>\d+)(?P<thousands>k?)")
_FRACTION = re.compile(r"(?:[a-z]\w*_)?A[PR](?:\d+k?)?(?:_?[sml])?")


def percent(fraction: float) -> float:
    """Convert a fraction in [0, 1] to percent. Only tables show metrics in percent."""
    return 100 * fraction


def size_classes(area_thresholds: Sequence[float]) -> str:
    """Describe the size classes. As in COCO, an object whose area equals a threshold is in both size classes."""
    small, large = area_thresholds
    return f"small ≤ {small:g} px² ≤ medium ≤ {large:g} px² ≤ large"


def recall_key(limit: int, suffix: str = "") -> str:
    """Return the paper's name of average recall with ``limit`` proposals per image, for example ``AR1k`` for 1000."""
    number = f"{limit // 1000}k" if limit % 1000 == 0 else str(limit)
    return f"AR{number}{suffix}"


def size_keys(key: str) -> tuple[str, str, str] | None:
    """Return a metric's names for small, medium and large objects: ``APs``, ``APm``, ``APl`` for ``AP``.

    Returns ``None`` if COCO does not split the metric by size (``AP50``), or if the metric is for one size (``APs``).
    """
    if not _SPLIT_BY_SIZE.fullmatch(key):
        return None
    joint = "" if key.endswith("AP") else "_"
    small, medium, large = (f"{key}{joint}{size}" for size in SIZES)
    return small, medium, large


def proposal_count(key: str) -> int | None:
    """Return the number of proposals per image in the name of an AR, for example 1000 for ``AR1k``.

    Returns ``None`` for an AR of one object size, such as ``AR1k_s``, and for metrics other than AR.
    """
    match = _RECALL.fullmatch(key)
    return None if match is None else int(match["count"]) * (1000 if match["thousands"] else 1)


def is_fraction(key: str) -> bool:
    """Return whether a metric is an AP or AR, with values in [0, 1], and not a loss."""
    return _FRACTION.fullmatch(key) is not None
