"""`python benchmarks/run.py [--quick]`, which `make bench` calls: measure speed on this machine.

Everything runs on one thread and counts CPU time of the process, so that other work on the machine
disturbs as little as possible. Yet caches and memory are shared: trust the numbers of a machine at
rest. The modules beside this file are a package that is not installed; `suite` has the story.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(import_module("benchmarks.suite").main())
