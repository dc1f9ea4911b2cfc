"""`python -m bahdanau_hf` is the command `bahdanau-hf`."""

import sys

from .cli import main

sys.exit(main())
