"""Fixed proposals on disk: header, writer and reader."""
