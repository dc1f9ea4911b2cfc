"""`python scripts/app.py` is `bahdanau-hf demo`."""

import sys

from bahdanau_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
