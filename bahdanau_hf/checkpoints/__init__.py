"""Folders of a run: saving, verifying and loading without loss."""
