"""Pushing to the Hub, and model cards."""
