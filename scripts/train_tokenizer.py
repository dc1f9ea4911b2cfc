"""`python scripts/train_tokenizer.py` is `bahdanau-hf train-tokenizer`."""

import sys

from bahdanau_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-tokenizer", *sys.argv[1:]]))
