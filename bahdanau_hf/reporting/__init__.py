"""Attention maps, charts and the report of a run."""
