"""Labels that stand for the supercategories of an annotation file instead of its categories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.errors import InputError, listed

Labels = Literal["category", "supercategory"]
PLURAL: dict[Labels, str] = {"category": "categories", "supercategory": "supercategories"}


def merge_categories(
    path: Path, categories: Categories, supercategories: Sequence[str | None]
) -> tuple[Categories, NDArray[np.int64]]:
    """Replace the categories of a file by their supercategories.

    Supercategories get the ids that follow the largest category id (COCO: 91 to 102), in the order of their first
    categories. No id is both a category and a supercategory, so results with the wrong kind of labels are detected.

    Args:
        path: path of the annotation file, used in messages only.
        categories: the K categories of the file.
        supercategories: name of each category's supercategory; None if the file states none.

    Returns:
        The supercategories, and the label of each category's supercategory: int64 ``(K,)``, indexed by category label.

    Raises:
        InputError: a category has no supercategory; the message names its id.
    """
    without = [category_id for category_id, name in zip(categories.ids, supercategories, strict=True) if name is None]
    if without:
        raise InputError(
            f"{path}: category {listed(without)} has no 'supercategory', which labels by supercategory need; add "
            "'supercategory' to the entries of 'categories', or use the labels 'category'"
        )
    names = tuple(dict.fromkeys(name for name in supercategories if name is not None))
    first = max(categories.ids, default=0) + 1
    label_of = np.array([names.index(str(name)) for name in supercategories], dtype=np.int64)
    return Categories(tuple(range(first, first + len(names))), names), label_of
