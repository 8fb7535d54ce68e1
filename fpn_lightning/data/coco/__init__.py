"""Reads COCO annotation files, checks them, and stores them as memory-mapped arrays."""
