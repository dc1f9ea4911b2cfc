"""`generate()` in all its modes: caches, scores, prefixes, samples, streams, and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerateBeamEncoderDecoderOutput, GenerateEncoderDecoderOutput

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.modeling.modeling_bahdanau import BahdanauCache
from tests.helpers.batches import CLOSE, SOURCES, pad, source
from tests.helpers.decisive_model import decisive
from tests.helpers.oracles import ScalarModel

EVERYTHING: dict[str, Any] = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
}
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # scores are float32


def teacher_forced(model: BahdanauForConditionalGeneration, sequences: Tensor, **inputs: Tensor):
    """The whole of given outputs in one pass."""
    repeats = sequences.shape[0] // len(SOURCES)
    inputs = {name: x.repeat_interleave(repeats, dim=0) for name, x in inputs.items()}
    with torch.no_grad():
        return model(
            **inputs,
            decoder_input_ids=sequences[:, :-1],
            output_attentions=True,
            output_hidden_states=True,
        )


# What comes back


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generating_without_a_cache_is_the_same(model, num_beams) -> None:
    decisive(model)
    options = {"num_beams": num_beams, "max_new_tokens": 6, **EVERYTHING}
    with_cache = model.generate(**source("left"), **options, use_cache=True)
    without = model.generate(**source("left"), **options, use_cache=False)
    assert with_cache.sequences.tolist() == without.sequences.tolist()
    for one, other in zip(with_cache.scores, without.scores, strict=True):
        assert_close(one, other, **EXACT)
    assert isinstance(with_cache.past_key_values, BahdanauCache)
    assert without.past_key_values is None


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.grid
def test_everything_has_the_documented_shape(model, num_beams, use_cache) -> None:
    model.generation_config.eos_token_id = None
    c = model.config
    B, S, new = 4, 7, 3
    outputs = model.generate(
        **source(), max_new_tokens=new, num_beams=num_beams, use_cache=use_cache, **EVERYTHING
    )
    kinds = GenerateEncoderDecoderOutput, GenerateBeamEncoderDecoderOutput
    assert isinstance(outputs, kinds[num_beams > 1])
    rows = B * num_beams
    assert outputs.sequences.shape == (B, new + 1)
    for per_step in (outputs.scores, outputs.logits):
        assert [tuple(x.shape) for x in per_step] == [(rows, c.vocab_size)] * new
    lengths = [1] * new if use_cache else list(range(1, new + 1))
    for step, T in zip(outputs.decoder_hidden_states, lengths, strict=True):
        assert [tuple(x.shape) for x in step] == [
            (rows, T, c.embedding_size),
            *[(rows, T, c.hidden_size)] * (c.decoder_layers - 1),
            (rows, T, c.output_size),
        ]
    assert len(outputs.encoder_hidden_states) == c.encoder_layers + 1
    assert outputs.encoder_hidden_states[-1].shape == (B, S, c.annotation_size)
    assert outputs.encoder_attentions is None
    for step, T in zip(outputs.cross_attentions, lengths, strict=True):
        if c.use_attention:
            assert [tuple(x.shape) for x in step] == [(rows, 1, T, S)]
        else:
            assert step is None
    if use_cache:
        cache = outputs.past_key_values
        assert cache.state.shape == (rows, c.decoder_layers, c.hidden_size)
        assert cache.get_seq_length() == new


def test_cross_attentions_are_those_of_one_pass(tiny_model) -> None:
    model = tiny_model(eos_token_id=None)
    outputs = model.generate(**source("left"), max_new_tokens=5, **EVERYTHING)
    weights = torch.cat([step[0] for step in outputs.cross_attentions], dim=2)
    whole = teacher_forced(model, outputs.sequences, **source("left"))
    assert_close(weights, whole.cross_attentions[0], **CLOSE)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_transition_scores_are_log_probabilities(model, num_beams) -> None:
    """What `compute_transition_scores` reads out of the steps is what one pass says.

    With beams this also shows that states and histories were reordered together.
    """
    decisive(model)
    outputs = model.generate(
        **source("both"),
        max_new_tokens=6,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=1.5,
        **EVERYTHING,
    )
    indices = outputs.beam_indices if num_beams > 1 else None
    scores = model.compute_transition_scores(
        outputs.sequences, outputs.scores, indices, normalize_logits=num_beams == 1
    )
    whole = teacher_forced(model, outputs.sequences, **source("both"))
    words = outputs.sequences[:, 1:]
    expected = whole.logits.log_softmax(-1).gather(-1, words.unsqueeze(-1)).squeeze(-1).float()
    after_end = (words == 2).cumsum(1) - (words == 2).long() > 0
    scores, expected = scores.masked_fill(after_end, 0), expected.masked_fill(after_end, 0)
    assert_close(scores, expected, **EXACT)
    if num_beams > 1:
        lengths = (~after_end).sum(1)
        assert_close(outputs.sequences_scores, expected.sum(1) / lengths**1.5, **EXACT)


# Sources and beginnings


@pytest.mark.parametrize("num_beams", [1, 3])
def test_encoder_outputs_passed_in(model, num_beams) -> None:
    decisive(model)
    options = {"num_beams": num_beams, "max_new_tokens": 6}
    with torch.no_grad():
        read = model.get_encoder()(**source("left"))
    kept = {name: x.clone() for name, x in read.items()}
    mask = source("left")["attention_mask"]
    expected = model.generate(**source("left"), **options)
    for form in (read, read, dict(read), read.to_tuple()):
        given = model.generate(encoder_outputs=form, attention_mask=mask, **options)
        assert given.tolist() == expected.tolist()
    assert all(torch.equal(read[name], x) for name, x in kept.items()), "ours to use again"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_embeddings_instead_of_ids(model, num_beams) -> None:
    decisive(model)
    inputs = source("left")
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    options = {"num_beams": num_beams, "max_new_tokens": 6}
    actual = model.generate(
        inputs_embeds=embeds, attention_mask=inputs["attention_mask"], **options
    )
    assert actual.tolist() == model.generate(**inputs, **options).tolist()


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_forced_beginning(model, num_beams) -> None:
    """The start token is put before it where it is missing; the rest goes on from it."""
    decisive(model)
    oracle = ScalarModel(model)
    prefix = torch.tensor([[5, 9], [4, 4], [12, 3], [7, 6]])
    start = torch.full((4, 1), 1)
    options = {"num_beams": num_beams, "max_new_tokens": 5, **EVERYTHING}
    bare = model.generate(**source(), decoder_input_ids=prefix, **options)
    full = model.generate(**source(), decoder_input_ids=torch.cat([start, prefix], 1), **options)
    assert bare.sequences.tolist() == full.sequences.tolist()
    assert bare.sequences[:, :3].tolist() == torch.cat([start, prefix], 1).tolist()
    if num_beams == 1:
        for i, words in enumerate(SOURCES):
            steps = oracle.run(oracle.encode(words), [1, *prefix[i].tolist()])
            assert_close(bare.logits[0][i].double().tolist(), steps[-1].logits, **EXACT)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.grid
def test_beginnings_padded_on_the_left(model, num_beams, use_cache) -> None:
    """Beginnings of several lengths in one batch, with a mask: as each alone."""
    decisive(model)
    beginnings = [[1, 5, 9], [1], [1, 12, 3, 8], [1, 7]]
    ids, mask = pad(beginnings, "left", extra=0)
    options = {"num_beams": num_beams, "max_new_tokens": 4, "use_cache": use_cache}
    options |= {"eos_token_id": None, "return_dict_in_generate": True, "output_scores": True}
    together = model.generate(
        **source("right"), decoder_input_ids=ids, decoder_attention_mask=mask, **options
    )
    for i, words in enumerate(SOURCES):
        alone = model.generate(
            torch.tensor([words]), decoder_input_ids=torch.tensor([beginnings[i]]), **options
        )
        assert (
            together.sequences[i, 4:].tolist() == alone.sequences[0, len(beginnings[i]) :].tolist()
        )
        rows = slice(i * num_beams, (i + 1) * num_beams)
        for one, other in zip(together.scores, alone.scores, strict=True):
            assert_close(one[rows], other, **EXACT)


@pytest.mark.parametrize("with_mask", [True, False])
def test_going_on_from_a_cache(model, with_mask) -> None:
    """Three tokens and one more are four; the returned cache and its prefix go in again."""
    decisive(model)
    options = {"eos_token_id": -1, "pad_token_id": -1, "use_cache": True, **EVERYTHING}
    at_once = model.generate(**source("left"), **options, max_new_tokens=4)
    first = model.generate(**source("left"), **options, max_new_tokens=3)
    more = {"decoder_attention_mask": torch.ones_like(first.sequences)} if with_mask else {}
    second = model.generate(
        **source("left"),
        **options,
        **more,
        past_key_values=first.past_key_values,
        decoder_input_ids=first.sequences,
        max_new_tokens=1,
    )
    assert second.sequences.tolist() == at_once.sequences.tolist()
    for one, other in zip((*first.scores, *second.scores), at_once.scores, strict=True):
        assert_close(one, other, **EXACT)
    assert_close(second.past_key_values.state, at_once.past_key_values.state, **CLOSE)
    assert second.past_key_values.get_seq_length() == 4


# Chance


def test_samples_repeat_with_their_seed(tiny_model) -> None:
    model = tiny_model()
    options = {"do_sample": True, "max_new_tokens": 6, "num_return_sequences": 3}
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model.generate(**source(), **options))
    assert outputs[0].shape[0] == 12
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_samples_follow_the_probabilities(tiny_model) -> None:
    model = tiny_model()
    with torch.no_grad():
        logits = model(torch.tensor([SOURCES[0]]), decoder_input_ids=torch.tensor([[1]])).logits
    expected = logits[0, 0].softmax(-1).float()
    n = 4000
    tokens = model.generate(
        torch.tensor([SOURCES[0]]),
        do_sample=True,
        max_new_tokens=1,
        num_return_sequences=n,
        top_k=0,
    )
    shares = tokens[:, 1].bincount(minlength=13) / n
    assert (shares - expected).abs().max() < 4 * (0.25 / n) ** 0.5


def test_the_only_choice_is_the_greedy_one(tiny_model) -> None:
    model = decisive(tiny_model())
    sampled = model.generate(**source(), do_sample=True, top_k=1, max_new_tokens=6)
    assert sampled.tolist() == model.generate(**source(), max_new_tokens=6).tolist()


@pytest.mark.parametrize("num_return_sequences", [1, 2])
def test_beam_sampling(model, num_return_sequences) -> None:
    decisive(model)
    options = {"do_sample": True, "num_beams": 3, "max_new_tokens": 5, **EVERYTHING}
    outputs = model.generate(**source(), **options, num_return_sequences=num_return_sequences)
    assert outputs.sequences.shape[0] == 4 * num_return_sequences
    whole = teacher_forced(model, outputs.sequences, **source())
    words = outputs.sequences[:, 1:]
    steps = whole.logits.log_softmax(-1).gather(-1, words.unsqueeze(-1)).squeeze(-1)
    after_end = (words == 2).cumsum(1) - (words == 2).long() > 0
    mean = steps.masked_fill(after_end, 0).sum(1) / (~after_end).sum(1)
    assert_close(outputs.sequences_scores, mean.float(), **EXACT)


def test_defaults_live_in_the_generation_config(tmp_path, tiny_model) -> None:
    model = decisive(tiny_model())
    model.generation_config.num_beams = 3
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(tmp_path)
    again = BahdanauForConditionalGeneration.from_pretrained(tmp_path)
    assert (again.generation_config.num_beams, again.generation_config.max_new_tokens) == (3, 4)
    expected = model.generate(**source(), num_beams=3, max_new_tokens=4)
    assert again.generate(**source()).tolist() == expected.tolist()
    ids = again.generation_config
    assert (ids.pad_token_id, ids.bos_token_id, ids.eos_token_id) == (0, 1, 2)
    assert ids.decoder_start_token_id == 1


# Refusals


def test_assisted_decoding_is_refused(tiny_model) -> None:
    model, ids = tiny_model(), torch.tensor([SOURCES[0]])
    for more in ({"assistant_model": tiny_model()}, {"prompt_lookup_num_tokens": 2}):
        with pytest.raises(ValueError, match="assisted generation is not supported with stateful"):
            model.generate(ids, max_new_tokens=3, **more)


def test_foreign_caches_are_refused(tiny_model) -> None:
    model, ids = tiny_model(), torch.tensor([[5, 9, 2]])
    for foreign, name in ((DynamicCache(), "DynamicCache"), (((1, 2),), "tuple")):
        with pytest.raises(ValueError, match=rf"past_key_values must be a BahdanauCache.*{name}"):
            model(ids, decoder_input_ids=ids, past_key_values=foreign)


def test_misspelt_arguments_are_refused(tiny_model) -> None:
    with pytest.raises(ValueError, match="max_new_token"):
        tiny_model().generate(torch.tensor([SOURCES[0]]), max_new_token=3)


def test_an_empty_row_is_refused(tiny_model) -> None:
    inputs = source()
    inputs["attention_mask"][2] = 0
    with pytest.raises(ValueError, match="row 2 of attention_mask has no real token"):
        tiny_model().generate(**inputs, max_new_tokens=3)


def test_source_is_projected_once(tiny_model, monkeypatch) -> None:
    """Keys are made for a sentence, not for a step."""
    model = tiny_model(eos_token_id=None)
    reads = []
    decoder = model.get_decoder()
    read = decoder.read
    monkeypatch.setattr(decoder, "read", lambda *args: reads.append(1) or read(*args))
    for options in ({}, {"num_beams": 3}, {"do_sample": True}, {"output_scores": True}):
        reads.clear()
        model.generate(**source(), max_new_tokens=6, **options)
        assert len(reads) == 1, options


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("options", [{}, {"do_sample": False, **EVERYTHING}], ids=["plain", "all"])
def test_the_mask_of_a_padded_batch_is_inferred(model, side, num_beams, options) -> None:
    """As the library does for decoders: a sentence is translated as if it were alone."""
    decisive(model)
    batch, asked = source(side), {"num_beams": num_beams, "max_new_tokens": 6, **options}
    ids = batch["input_ids"]
    assert bool((batch["attention_mask"] == 0).any())
    expected = model.generate(**batch, **asked)
    for found in (model.generate(ids, **asked), model.generate(input_ids=ids, **asked)):
        both = (found, expected)
        tokens, others = ((x.sequences if options else x).tolist() for x in both)
        assert tokens == others
    alone = [model.generate(torch.tensor([s]), **asked) for s in SOURCES]
    for row, one in zip(tokens, alone, strict=True):
        (own,) = (one.sequences if options else one).tolist()
        assert row[: len(own)] == own


def test_no_mask_is_inferred_where_padding_means_something_else(tiny_model) -> None:
    model = decisive(tiny_model())
    ids = torch.tensor([[5, 6, 2], [5, 2, 2]])
    asked = {"max_new_tokens": 6, "num_beams": 1}
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=2, **asked)
    assert model.generate(ids, pad_token_id=2, **asked).tolist() == whole.tolist()
    padded = torch.tensor([[5, 6, 2], [5, 2, 0]])
    told = model.generate(padded, attention_mask=torch.ones_like(ids), **asked)
    embeds = model.get_input_embeddings()(padded)
    assert model.generate(inputs_embeds=embeds, **asked).tolist() == told.tolist()
