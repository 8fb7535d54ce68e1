"""Pages, tables and figures made from run records. This package imports neither torch nor Lightning."""
