"""Documents whose text is translated while all else in them stays as it is."""
