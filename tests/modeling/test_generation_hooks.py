"""What may be hooked into `generate()`: streamers, processors of the scores, stopping criteria."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation import BaseStreamer

from bahdanau_hf.data.vocabulary import train_tokenizer
from tests.helpers.batches import SOURCES, source
from tests.helpers.decisive_model import decisive


class Collector(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@pytest.mark.parametrize("do_sample", [True, False])
def test_streamer(tiny_model, do_sample) -> None:
    collector = Collector()
    ids = torch.tensor([SOURCES[0]])
    outputs = tiny_model().generate(ids, max_new_tokens=5, streamer=collector, do_sample=do_sample)
    assert collector.tokens == outputs[0].tolist()
    assert collector.ended


class Only(LogitsProcessor):
    """Allow one token at each length."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, input_ids, scores):
        allowed = torch.full_like(scores, -torch.inf)
        token = self.tokens[input_ids.shape[1] - 1]
        allowed[:, token] = scores[:, token]
        return allowed


@pytest.mark.parametrize("num_beams", [1, 3])
def test_logits_processor(tiny_model, num_beams) -> None:
    wanted = [5, 9, 4, 2]
    outputs = tiny_model().generate(
        **source(),
        num_beams=num_beams,
        max_new_tokens=4,
        logits_processor=LogitsProcessorList([Only(wanted)]),
    )
    assert outputs[:, 1:].tolist() == [wanted] * 4


@pytest.mark.parametrize("num_beams", [1, 3])
def test_settings_that_bend_the_scores(tiny_model, num_beams) -> None:
    model = decisive(tiny_model())
    options = {"num_beams": num_beams, "max_new_tokens": 8, "min_new_tokens": 8}
    free = model.generate(**source(), **options)
    assert free.shape[1] == 9
    assert not (free[:, 1:-1] == 2).any()
    favourite = int(free[0, 1])
    assert favourite not in model.generate(**source(), **options, bad_words_ids=[[favourite]])
    assert favourite not in model.generate(**source(), **options, suppress_tokens=[favourite])
    single = model.generate(**source(), **options, no_repeat_ngram_size=1)
    assert all(len(set(row)) == 9 for row in single.tolist())
    forced = model.generate(**source(), **options, forced_bos_token_id=7, forced_eos_token_id=2)
    assert (forced[:, 1] == 7).all()


class AfterThree(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 4)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_stopping_criterion(tiny_model, num_beams) -> None:
    model = tiny_model(eos_token_id=None)
    outputs = model.generate(
        **source(), num_beams=num_beams, max_new_tokens=9, stopping_criteria=[AfterThree()]
    )
    assert outputs.shape[1] == 4


def test_stop_strings(tiny_model, pairs) -> None:
    english, chinese = zip(*pairs, strict=True)
    tokenizer = train_tokenizer(english, chinese, vocab_size=500)
    model = tiny_model(vocab_size=len(tokenizer), encoder_vocab_size=None, eos_token_id=None)
    ids = torch.tensor([SOURCES[0]])
    wanted = tokenizer("早上好。", add_special_tokens=False).input_ids
    processors = LogitsProcessorList([Only(wanted)])
    options = {"max_new_tokens": len(wanted), "logits_processor": processors}
    assert model.generate(ids, **options)[0, 1:].tolist() == wanted
    stopped = model.generate(ids, **options, stop_strings=["上"], tokenizer=tokenizer)
    assert tokenizer.decode(stopped[0], skip_special_tokens=True) == "早上"
