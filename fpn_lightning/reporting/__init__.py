"""From run records to the paper's tables; imports neither models nor Lightning."""
