"""Checkpoints in and out: those of torchvision and detectron2, and one detector from two that share features."""
