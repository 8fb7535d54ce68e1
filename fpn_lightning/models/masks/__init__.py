"""Segment proposals (FPN §6)."""
