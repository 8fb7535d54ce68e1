"""What ``predict`` and ``test`` write: detections, proposals, the evaluation server's file."""
