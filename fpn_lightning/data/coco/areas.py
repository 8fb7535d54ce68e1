"""Whether ``area`` in an annotation file can be the objects' areas, by which COCO's evaluation tells their sizes."""

from __future__ import annotations

import numpy as np

from fpn_lightning.data.coco.index import COCOIndex


def area_remarks(index: COCOIndex) -> list[str]:
    """Return a message if areas are 0, or the same for all objects of a file; otherwise an empty list."""
    counted = ~index.objects.is_crowd & (index.objects.boxes_xywh[:, 2:] > 0).all(axis=1)
    areas, extents = index.objects.areas[counted], index.objects.boxes_xywh[counted, 2:]
    zero = int((areas <= 0).sum())
    if zero:
        what = f"'area' is 0 or less for {zero} of {len(areas)} objects"
    elif len(areas) > 1 and np.ptp(areas) == 0 and np.ptp(extents.prod(axis=1)) > 0:
        what = f"'area' is {areas[0]:g} for all {len(areas)} objects, though their boxes differ"
    else:
        return []
    return [
        f"{index.annotation_file}: {what}. COCO's size classes go by it, so results for small, medium and large "
        "objects mean little; write each object's area in px² (width * height without masks)"
    ]
