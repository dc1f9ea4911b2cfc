"""From text to translations with a loaded checkpoint."""
