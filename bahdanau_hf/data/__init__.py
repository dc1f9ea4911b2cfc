"""From files of pairs to batches."""
