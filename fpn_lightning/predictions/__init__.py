"""Writes the results of ``predict`` and ``test``: detections, proposals, the file for COCO's evaluation server."""
