"""A checkpoint of the first version still loads, and still says what it said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bahdanau_hf.inference.translator import Translator
from tests.helpers.places import FIXTURES

# Never made anew: if this fails, trained models of others give other text.
FROZEN = FIXTURES / "checkpoint_0"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_frozen_checkpoint_still_gives_its_text(num_beams: int) -> None:
    expected = json.loads((FROZEN / "expected.json").read_text(encoding="utf-8"))
    translator = Translator.from_pretrained(FROZEN, device="cpu")
    found = translator.translate(
        expected["sources"], num_beams=num_beams, return_scores=True, return_alignments=True
    )
    stored = expected[f"beams_{num_beams}"]
    # One of the sentences holds no word that the model knows: it is copied since then.
    written = [i for i, translation in enumerate(found) if not translation.copied]
    assert len(written) == len(found) - 1
    assert [found[i].text for i in written] == [stored["texts"][i] for i in written]
    scores = [stored["scores"][i] for i in written]
    # Of greedy search the sum was stored.
    stated = [found[i].log_prob if num_beams == 1 else found[i].score for i in written]
    assert stated == pytest.approx(scores, abs=1e-3)
    looks = [t.alignment.weights[0].tolist() for t in found if t.alignment is not None]
    assert [sum(look) for look in looks] == pytest.approx([1.0] * len(looks), abs=1e-4)
    assert looks[0] == pytest.approx(expected["first_look"], abs=1e-3)


def test_it_is_small_and_holds_no_code() -> None:
    files = list(FROZEN.iterdir())
    assert sum(path.stat().st_size for path in files) < 200_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}


# What the version before the model became its modules saved beside the same weights: 19 files.
WITH_ITS_CODE = FROZEN.with_name("checkpoint_19_files")
STRANGER = """
import json, sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder, sources, num_beams = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
assert not any(name.partition(".")[0] == "bahdanau_hf" for name in sys.modules)
inputs = tokenizer(sources, padding=True, return_tensors="pt")
print(json.dumps(model.generate(**inputs, num_beams=num_beams).tolist()))
"""


@pytest.fixture(scope="module")
def with_its_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "checkpoint"
    shutil.copytree(WITH_ITS_CODE, folder)
    shutil.copy(FROZEN / "model.safetensors", folder)
    return folder


@pytest.mark.parametrize("num_beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_code_saved_before_gives_the_same_tokens(with_its_code: Path, num_beams: int) -> None:
    """In a process without the package; and its checkpoint, loaded by the package of today."""
    expected = json.loads((FROZEN / "expected.json").read_text(encoding="utf-8"))
    sources = [source for source in expected["sources"] if source.strip()]
    # The code of then asks the processor itself: what FBGEMM alone pretends, it would not know of,
    # and sum 8-bit products as if they could not overflow.
    environment = {k: v for k, v in os.environ.items() if k != "FBGEMM_ENABLE_INSTRUCTIONS"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, with_its_code, json.dumps(sources), str(num_beams)],
        cwd=with_its_code, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        env=environment,
    )  # fmt: skip
    translator = Translator.from_pretrained(with_its_code, device="cpu")
    inputs = translator.tokenizer(sources, padding=True, return_tensors="pt")
    found = translator.model.generate(**inputs, num_beams=num_beams).tolist()
    assert found == json.loads(done.stdout.splitlines()[-1])


def test_it_holds_the_code_of_then() -> None:
    assert len(list(WITH_ITS_CODE.glob("*.py"))) == 19
