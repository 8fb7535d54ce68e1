"""COCO annotation files: reading, checking and a memory-mapped index."""
