"""The page on which a checkpoint is tried, and its Space."""
