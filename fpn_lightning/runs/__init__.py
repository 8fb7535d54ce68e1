"""A run: its directory, record, logs and console output."""
