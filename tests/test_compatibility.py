"""A checkpoint of the first version still loads, and still says what it said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bahdanau_hf.translation import Translator

# Never made anew: if this fails, trained models of others give other text.
FROZEN = Path(__file__).parent / "data" / "checkpoint_0"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_frozen_checkpoint_still_gives_its_text(num_beams: int) -> None:
    expected = json.loads((FROZEN / "expected.json").read_text(encoding="utf-8"))
    translator = Translator.from_pretrained(FROZEN, device="cpu")
    found = translator.translate(
        expected["sources"], num_beams=num_beams, return_scores=True, return_alignments=True
    )
    stored = expected[f"beams_{num_beams}"]
    assert [t.text for t in found] == stored["texts"]
    assert [t.score for t in found] == pytest.approx(stored["scores"], abs=1e-3)
    looks = [t.alignment.weights[0].tolist() for t in found if t.alignment is not None]
    assert [sum(look) for look in looks] == pytest.approx([1.0] * len(looks), abs=1e-4)
    assert looks[0] == pytest.approx(expected["first_look"], abs=1e-3)


def test_it_is_small_and_holds_no_code() -> None:
    files = list(FROZEN.iterdir())
    assert sum(path.stat().st_size for path in files) < 200_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
