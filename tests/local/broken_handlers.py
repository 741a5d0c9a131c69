"""A module that does not load, on purpose."""

raise RuntimeError("no artifact")
