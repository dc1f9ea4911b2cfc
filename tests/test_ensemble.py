"""An ensemble searches by the mean of the probabilities, and one of equals is the model itself."""

import itertools
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # the benchmarks are not installed

from bahdanau_hf.tokenization import target_vocab_size  # noqa: E402
from benchmarks.ensemble import MeanOfModels, translate_together  # noqa: E402


@pytest.fixture
def models(tiny_model, tiny_tokenizer):
    sizes = {
        "vocab_size": target_vocab_size(tiny_tokenizer),
        "encoder_vocab_size": len(tiny_tokenizer),
    }
    found = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        model = tiny_model(**sizes).eval()
        with torch.no_grad():
            model.lm_head.weight.mul_(6)  # decided opinions, and different ones
            model.lm_head.bias[2] += 1.0
        model.generation_config.max_new_tokens = 7
        found.append(model)
    return found


@pytest.mark.parametrize("beams", [1, 3])
def test_equals_are_one(models, tiny_tokenizer, pairs, beams) -> None:
    texts = [source for source, _ in pairs[:9]]
    alone = translate_together(models[:1], tiny_tokenizer, texts, beams)
    assert translate_together([models[0]] * 3, tiny_tokenizer, texts, beams) == alone
    others = translate_together(models, tiny_tokenizer, texts, beams)
    assert others != alone
    for i in (0, 4):
        assert translate_together(models, tiny_tokenizer, [texts[i]], beams) == [others[i]]


def test_probabilities_are_averaged(models, tiny_tokenizer, pairs) -> None:
    """At every step, whatever the rows were before beams were chosen."""
    batch = tiny_tokenizer([source for source, _ in pairs[:2]], padding=True, return_tensors="pt")
    beams, first = 2, models[0]
    prefix = torch.tensor([[1, 5], [1, 6], [1, 7], [1, 8]])
    with torch.no_grad():
        rows = {key: value.repeat_interleave(beams, dim=0) for key, value in batch.items()}
        every = [model(**rows, decoder_input_ids=prefix).logits[:, -1] for model in models]
        mixer = MeanOfModels(models[1:], batch["input_ids"], batch["attention_mask"], beams)
        scores = mixer(prefix, every[0].log_softmax(dim=-1))
        mean = torch.stack([logits.softmax(dim=-1) for logits in every]).mean(dim=0)
    torch.testing.assert_close(scores.exp(), mean)
    assert first is not models[1]
    for a, b in itertools.combinations(every, 2):
        assert not torch.allclose(a, b, atol=0.1), "the models must differ for this to count"
