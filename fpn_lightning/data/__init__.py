"""Images, targets and proposals: from files to batches."""
