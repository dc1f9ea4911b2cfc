"""Several threads at one `Translator`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from bahdanau_hf.inference.translator import Translation, Translator
from tests.helpers.tiny_checkpoint import SENTENCES

NUM_THREADS = 4


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_mode_is_as_before_and_nothing_is_dropped(
    checkpoint: Path, training: bool, num_beams: int
) -> None:
    """Whoever comes while another translates must not take its mode for the model's own."""
    translator = Translator.from_pretrained(checkpoint, device="cpu")
    expected = translator.translate(SENTENCES, num_beams=num_beams, return_scores=True)
    translator.model.config.embedding_dropout = 0.5
    translator.model.train(training)
    start = Barrier(NUM_THREADS)

    def work(number: int) -> list[list[Translation]]:
        """Threads of different lengths, so that each ends while others are at work."""
        start.wait()
        return [
            translator.translate(SENTENCES, num_beams=num_beams, return_scores=True)
            for _ in range(2 + number)
        ]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        answers = list(pool.map(work, range(NUM_THREADS)))
    assert {module.training for module in translator.model.modules()} == {training}
    for translations in (one for some in answers for one in some):
        assert [t.text for t in translations] == [t.text for t in expected]
        scores = [t.score for t in translations]
        assert scores == pytest.approx([t.score for t in expected], abs=1e-4)
