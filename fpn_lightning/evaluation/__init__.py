"""COCO's average recall and average precision, exactly."""
