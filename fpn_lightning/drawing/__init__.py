"""Draws predictions, ground truth and feature maps."""
