"""Faster R-CNN checkpoints of torchvision and detectron2: their names and conventions, in and out."""
