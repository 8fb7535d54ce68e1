"""Check the areas in an annotation file. COCO's evaluation divides objects into small, medium and large by area."""

from __future__ import annotations

import numpy as np

from fpn_lightning.data.coco.index import COCOIndex


def area_remarks(index: COCOIndex) -> list[str]:
    """Return a list with one message if the areas of an annotation file look wrong; otherwise return an empty list.

    Areas look wrong if any area is 0 or less, or if all areas are equal although the boxes have different sizes. Crowd
    regions and boxes without a positive width and height are not checked.
    """
    counted = ~index.objects.is_crowd & (index.objects.boxes_xywh[:, 2:] > 0).all(axis=1)
    areas, extents = index.objects.areas[counted], index.objects.boxes_xywh[counted, 2:]
    if zero := int((areas <= 0).sum()):
        what = f"'area' is 0 or less for {zero} of {len(areas)} objects"
    elif len(areas) > 1 and np.ptp(areas) == 0 and np.ptp(extents.prod(axis=1)) > 0:
        what = f"'area' is {areas[0]:g} for all {len(areas)} objects, although the boxes have different sizes"
    else:
        return []
    return [
        f"{index.annotation_file}: {what}. COCO assigns objects to size classes by 'area', so results for small, "
        "medium and large objects are unreliable; write each object's area in px² (width * height if the object has no "
        "mask)"
    ]
