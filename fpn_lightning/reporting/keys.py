"""Metric keys taken apart: what ``AR1k_s`` has to do with ``AR1k``, and how many proposals that is."""

from __future__ import annotations

import re

SIZES = {"s": "small", "m": "medium", "l": "large"}

_SPLIT = re.compile(r"(?:.*_)?(?:AP|AR\d+k?)")
_RECALL = re.compile(r"(?P<prefix>.*_)?AR(?P<count>\d+)(?P<thousands>k?)")


def size_keys(key: str) -> tuple[str, str, str] | None:
    """The keys of a metric for small, medium and large objects.

    ``AP`` gives ``APs``, ``APm``, ``APl``; ``AR100`` gives ``AR100_s`` and so on; prefixes stay. ``None`` for a metric
    that COCO does not part by size (``AP50``) or one that is a part itself.
    """
    if not _SPLIT.fullmatch(key):
        return None
    joint = "" if key.endswith("AP") else "_"
    small, medium, large = (f"{key}{joint}{size}" for size in SIZES)
    return small, medium, large


def proposal_count(key: str) -> int | None:
    """How many proposals an image a recall is taken at: ``AR1k`` gives 1000; ``None`` for any other metric."""
    match = _RECALL.fullmatch(key)
    return None if match is None else int(match["count"]) * (1000 if match["thousands"] else 1)
