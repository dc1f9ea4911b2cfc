"""Start-up: one sentence through `bahdanau-hf translate`, against importing and loading alone."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .bundled import load_bundle, make_model
from .results import Goal, Section
from .stopwatch import Timing

ROOT = Path(__file__).parents[1]
IMPORT = "import transformers"
LOAD = (
    "import sys, transformers, bahdanau_hf; "
    "transformers.AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1]); "
    "transformers.AutoTokenizer.from_pretrained(sys.argv[1])"
)
TRANSLATE = "bahdanau-hf translate, one sentence"
LOAD_NAME = "import transformers, load model and tokenizer"


def measure(quick: bool) -> Section:
    """Time fresh processes in turns."""
    bundle = load_bundle()
    seconds: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        model = make_model(bundle.tokenizer)
        model.generation_config.max_length = 20
        model.save_pretrained(folder)
        bundle.tokenizer.save_pretrained(folder)
        commands = {
            "import transformers": ["-c", IMPORT],
            LOAD_NAME: ["-c", LOAD, folder],
            TRANSLATE: ["-m", "bahdanau_hf", "translate", "--model", folder],
        }
        for _ in range(1 if quick else 5):
            for name, arguments in commands.items():
                seconds.setdefault(name, []).append(_cpu_seconds(arguments))
    section = Section("Start-up", "Fresh processes on one thread; user and system time.")
    timings = {name: Timing(numbers, 1) for name, numbers in seconds.items()}
    for name, timing in timings.items():
        section.add_seconds(name, timing)
    ratio = timings[LOAD_NAME].times_as_fast_as(timings[TRANSLATE])
    section.goals.append(Goal(f"start-up: {TRANSLATE} / {LOAD_NAME}", 1.5, ratio, at_most=True))
    return section


def _cpu_seconds(arguments: list[str]) -> float:
    """What a fresh Python process takes for this."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        input="It is late.\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
