"""`accelerate launch scripts/train.py tiny` is `accelerate launch -m bahdanau_hf.train tiny`."""

import sys

from bahdanau_hf.train import main

if __name__ == "__main__":
    sys.exit(main())
