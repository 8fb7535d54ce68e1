"""The names of metrics: how ``AR1k_s`` is built and taken apart, and the one place where a fraction becomes percent.

A name is an optional prefix (``segm_``, ``test_dev_``), a base (``AP``, ``AP50``, ``AR100``, ``AR1k``), and for one
object size a suffix: ``s``, ``m`` or ``l`` after ``AP``, ``_s``, ``_m`` or ``_l`` after ``AR100``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SIZES = {"s": "small", "m": "medium", "l": "large"}
"""The sizes of objects that COCO tells apart, by their letter."""

COCO_AREAS = (32**2, 96**2)
"""COCO's areas between small, medium and large objects, px²."""

AREA_SUFFIXES = ("", *(f"_{size}" for size in SIZES))
"""Suffixes of a recall: all objects, then each size."""

_SPLIT_BY_SIZE = re.compile(r"(?:.*_)?(?:AP|AR\d+k?)")
_RECALL = re.compile(r"(?:.*_)?AR(?P<count>\d+)(?P<thousands>k?)")
_FRACTION = re.compile(r"(?:[a-z]\w*_)?A[PR](?:\d+k?)?(?:_?[sml])?")


def percent(fraction: float) -> float:
    """A fraction in [0, 1] times 100, as tables show it."""
    return 100 * fraction


def size_classes(area_thresholds: Sequence[float]) -> str:
    """The size classes in words; an object exactly on a threshold belongs to both classes, as in COCO."""
    small, large = area_thresholds
    return f"small ≤ {small:g} px² ≤ medium ≤ {large:g} px² ≤ large"


def recall_key(limit: int, suffix: str = "") -> str:
    """Name of the recall at ``limit`` proposals an image, as the paper writes it: ``AR100``, ``AR1k``, ``AR1k_s``."""
    number = f"{limit // 1000}k" if limit % 1000 == 0 else str(limit)
    return f"AR{number}{suffix}"


def size_keys(key: str) -> tuple[str, str, str] | None:
    """Names of a metric for small, medium and large objects.

    ``AP`` gives ``APs``, ``APm``, ``APl``; ``AR100`` gives ``AR100_s``, ``AR100_m``, ``AR100_l``. ``None`` for a metric
    that COCO does not split by size (``AP50``) and for one that is of a single size.
    """
    if not _SPLIT_BY_SIZE.fullmatch(key):
        return None
    joint = "" if key.endswith("AP") else "_"
    small, medium, large = (f"{key}{joint}{size}" for size in SIZES)
    return small, medium, large


def proposal_count(key: str) -> int | None:
    """Number of proposals an image that a recall is taken at: ``AR1k`` gives 1000; ``None`` for any other metric."""
    match = _RECALL.fullmatch(key)
    return None if match is None else int(match["count"]) * (1000 if match["thousands"] else 1)


def is_fraction(key: str) -> bool:
    """Whether the name is that of an AP or AR, whose values lie in [0, 1]; a loss is not."""
    return _FRACTION.fullmatch(key) is not None
