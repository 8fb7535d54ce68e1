"""Pictures of predictions, ground truth and feature maps."""
