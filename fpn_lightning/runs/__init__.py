"""Everything around the training of a run: presets, directory, checkpoints, record, logs and console output."""
