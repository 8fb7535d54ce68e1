"""Writers of the files of ``predict`` and ``test``: detections, proposals, the evaluation server's file."""
