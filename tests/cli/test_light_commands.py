"""What is answered before torch is imported, and what is known once transformers is."""

import subprocess
import sys

import pytest

from tests.helpers.places import ROOT

HEAVY = {"torch", "transformers", "datasets", "accelerate", "numpy"}


def imported(*command: str) -> tuple[int, str, set[str]]:
    """Run Python; its status, what it printed, and the top-level modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    modules = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in lines
        if line.startswith("import time:")
    }
    rest = [line for line in lines if not line.startswith("import time:")]
    return done.returncode, done.stdout + "\n".join(rest), modules


ANSWERS = {
    "-m bahdanau_hf --version": (0, "bahdanau-hf 0"),
    "-m bahdanau_hf --help": (0, "translate"),
    "-m bahdanau_hf.train --help": (0, "--learning_rate"),
    "-m bahdanau_hf.train tiny --learning_rat 3": (2, "Did you mean 'learning_rate'"),
    "-m bahdanau_hf.train tini": (2, "base, pronunciation, rnnsearch, tiny, tutorial"),
    "-m bahdanau_hf train --seed x": (2, "invalid int value: 'x'"),
    "-m bahdanau_hf train-tokenizer --sed 1": (2, "Did you mean 'seed'"),
    "-m bahdanau_hf train-tokenizer --seed 1": (2, "trains no model: leave out --seed"),
    "-m bahdanau_hf.train tiny --fp16": (2, "Take --precision fp16"),
    "-m bahdanau_hf.train tiny --dropout 0.5": (2, "with one layer on each side"),
    "-m bahdanau_hf translate --modl x": (2, "--model"),
    "-m bahdanau_hf transalte": (2, "invalid choice"),
    "-m bahdanau_hf": (2, "COMMAND"),
    "scripts/train.py --help": (0, "--learning_rate"),
    "scripts/train_tokenizer.py --help": (0, "--vocab_size"),
    "scripts/push_to_hub.py --help": (0, "--dry_run"),
    "scripts/app.py --help": (0, "--space_dir"),
    **{
        f"-m bahdanau_hf {name} --help": (0, f"bahdanau-hf {name}")
        for name in ("score", "align", "export", "push", "demo", "convert", "env")
    },
}


@pytest.mark.parametrize("command", ANSWERS)
def test_answers_come_before_heavy_imports(command: str) -> None:
    status, printed, modules = imported(*command.split())
    assert (status, "Traceback" in printed) == (ANSWERS[command][0], False), printed
    assert ANSWERS[command][1] in printed
    assert "bahdanau_hf" in modules
    assert not modules & HEAVY


KNOWN = "assert AutoConfig.for_model('bahdanau').model_type == 'bahdanau'"


@pytest.mark.parametrize(
    "code",
    [
        "from transformers import AutoConfig; import bahdanau_hf",
        "import bahdanau_hf, importlib.util; importlib.util.find_spec('transformers'); "
        "import transformers.models.marian; from transformers import AutoConfig",
        "import bahdanau_hf.modeling.text_bahdanau; from transformers import AutoConfig",
        *(  # each process takes three seconds
            pytest.param(f"{first}; from transformers import AutoConfig", marks=pytest.mark.slow)
            for first in (
                "import bahdanau_hf",
                "from bahdanau_hf import BahdanauModel",
                "import bahdanau_hf.gpu.cuda_graphs",
                "import bahdanau_hf.data.tokenization",
            )
        ),
    ],
)
def test_the_model_is_registered_in_whatever_order_things_are_imported(code: str) -> None:
    status, printed, _ = imported("-c", f"{code}; {KNOWN}")
    assert (status, printed) == (0, "")
