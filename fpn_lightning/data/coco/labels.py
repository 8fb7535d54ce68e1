"""What labels stand for: the categories of an annotation file, or the supercategories that it groups them into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.errors import InputError

Labels = Literal["category", "supercategory"]
PLURAL: dict[Labels, str] = {"category": "categories", "supercategory": "supercategories"}


def merge_categories(
    path: Path, categories: Categories, supercategories: Sequence[str | None]
) -> tuple[Categories, NDArray[np.int64]]:
    """Merge the categories of each supercategory into one.

    The new ids follow the largest id of a category (COCO: 91 to 102), in the order of each supercategory's first
    category. So no result of the one kind of labels can be scored as one of the other kind.

    Args:
        path: the annotation file; only for messages.
        categories: its K categories.
        supercategories: name of the supercategory of each; None where the file has none.

    Returns:
        The supercategories, and int64 ``(K,)``: for each category's label the label of its supercategory.

    Raises:
        InputError: naming the categories without a supercategory.
    """
    without = [str(i) for i, name in zip(categories.ids, supercategories, strict=True) if name is None]
    if without:
        raise InputError(
            f"{path}: category {', '.join(without[:5])}{' …' * (len(without) > 5)} has no 'supercategory', which "
            "labels by supercategory need; add the names to 'categories', or use the labels 'category'"
        )
    names = tuple(dict.fromkeys(name for name in supercategories if name is not None))
    first = max(categories.ids, default=0) + 1
    label_of = np.array([names.index(str(name)) for name in supercategories], dtype=np.int64)
    return Categories(tuple(range(first, first + len(names))), names), label_of
