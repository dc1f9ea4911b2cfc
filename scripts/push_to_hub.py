"""`python scripts/push_to_hub.py` is `bahdanau-hf push`."""

import sys

from bahdanau_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
