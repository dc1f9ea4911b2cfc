"""The cache: steps that go on from it are those of one pass, whatever is done to its rows."""

import pytest
import torch
from torch.testing import assert_close

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.modeling.modeling_bahdanau import CACHE, BahdanauCache
from tests.helpers.batches import CLOSE, SIDES, SOURCES, source
from tests.helpers.oracles import ScalarModel


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.grid
def test_steps_with_a_cache_are_the_oracles(model, side) -> None:
    oracle = ScalarModel(model)
    words = torch.randint(13, (4, 5))
    cache = None
    for t in range(5):
        given = source(side) if cache is None else {"past_key_values": cache}
        with torch.no_grad():
            outputs = model(**given, decoder_input_ids=words[:, t : t + 1], use_cache=True)
        cache = outputs.past_key_values
        for i in range(4):
            steps = oracle.run(oracle.encode(SOURCES[i]), words[i, : t + 1].tolist())
            assert_close(outputs.logits[i, 0].tolist(), steps[-1].logits, **CLOSE)
            assert_close(cache.state[i].tolist(), steps[-1].states, **CLOSE)
    assert cache.get_seq_length() == 5


@pytest.mark.parametrize("parts", [[1, 4], [3, 2], [2, 2, 1]])
def test_chunks_with_a_cache_are_the_whole(model, parts) -> None:
    words = torch.randint(13, (4, 5))
    with torch.no_grad():
        whole = model(**source(), decoder_input_ids=words, output_attentions=True)
        cache, chunks = BahdanauCache(), []
        for chunk in words.split(parts, dim=1):
            chunks.append(
                model(
                    **source(), decoder_input_ids=chunk, past_key_values=cache,
                    output_attentions=True,
                )
            )  # fmt: skip
            assert chunks[-1].past_key_values is cache
    assert_close(torch.cat([x.logits for x in chunks], dim=1), whole.logits, **CLOSE)
    if model.config.use_attention:
        weights = torch.cat([x.cross_attentions[0] for x in chunks], dim=2)
        assert_close(weights, whole.cross_attentions[0], **CLOSE)


def filled_cache(model: BahdanauForConditionalGeneration) -> BahdanauCache:
    with torch.no_grad():
        words = torch.randint(13, (4, 2))
        return model(**source(), decoder_input_ids=words, use_cache=True).past_key_values


def test_cache_starts_empty_and_is_reset(model) -> None:
    cache = BahdanauCache()
    assert (cache.get_seq_length(), cache.batch_size, len(cache)) == (0, 0, 0)
    assert not cache.is_initialized
    used = filled_cache(model)
    assert (used.get_seq_length(), used.batch_size) == (2, 4)
    assert len(used) == model.config.num_hidden_layers
    assert used.is_initialized
    assert not used.is_compileable
    assert used.get_max_length() == -1
    used.reset()
    assert vars(used) == vars(cache)


def test_cache_rows_move_together(model) -> None:
    """Selected and repeated rows go on exactly as they would have."""
    words = torch.randint(13, (4, 1))
    with torch.no_grad():
        expected = model(decoder_input_ids=words, past_key_values=filled_cache_twice(model)).logits
        chosen = torch.tensor([2, 0])
        cache = filled_cache_twice(model)
        cache.batch_select_indices(chosen)
        actual = model(decoder_input_ids=words[chosen], past_key_values=cache).logits
        assert_close(actual, expected[chosen], **CLOSE)
        cache = filled_cache_twice(model)
        cache.batch_repeat_interleave(3)
        repeated = words.repeat_interleave(3, 0)
        actual = model(decoder_input_ids=repeated, past_key_values=cache).logits
        assert_close(actual, expected.repeat_interleave(3, 0), **CLOSE)


def filled_cache_twice(model: BahdanauForConditionalGeneration) -> BahdanauCache:
    torch.manual_seed(3)
    return filled_cache(model)


def test_cache_reorders_the_state_alone(tiny_model) -> None:
    cache = filled_cache(tiny_model())
    state, kept = cache.state.clone(), cache.source
    cache.reorder_cache(torch.tensor([3, 3, 0, 1]))
    assert torch.equal(cache.state, state[[3, 3, 0, 1]])
    assert cache.source is kept, "beams of a sentence share its source"


def test_cache_cannot_go_back(tiny_model) -> None:
    with pytest.raises(ValueError, match="cannot be cropped"):
        filled_cache(tiny_model()).crop(1)


def test_either_name_and_not_both(model) -> None:
    """Transformers 5.24 calls it `cache`, and the search of each version finds its own name."""
    words = torch.randint(13, (4, 3))
    with torch.no_grad():
        whole = model(**source(), decoder_input_ids=words).logits
        for name in ("past_key_values", "cache"):
            for runs in (model, model.model):
                cache = model(**source(), decoder_input_ids=words[:, :2])[CACHE]
                rest = runs(decoder_input_ids=words[:, 2:], **{name: cache})
                if runs is model:
                    assert_close(rest.logits, whole[:, 2:], **CLOSE)
                assert rest[CACHE] is cache
        with pytest.raises(ValueError, match="pass one"):
            model(decoder_input_ids=words, past_key_values=cache, cache=cache)


def tensors_within(thing: object, seen: set[int]) -> list[torch.Tensor]:
    """All tensors that can be reached from a thing through attributes and containers."""
    if id(thing) in seen or isinstance(thing, type | str | int | float | type(None)):
        return []
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return [thing]
    parts = thing.values() if isinstance(thing, dict) else []
    parts = thing if isinstance(thing, list | tuple | set) else parts
    parts = [*parts, *vars(thing).values()] if hasattr(thing, "__dict__") else parts
    return [tensor for part in parts for tensor in tensors_within(part, seen)]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_returned_cache_holds_no_weights(model, num_beams) -> None:
    """All in it belongs to rows: twice as many of them take twice the room."""
    model.generation_config.eos_token_id = None
    sizes = []
    for repeats in (1, 2):
        rows = {name: ids.repeat(repeats, 1) for name, ids in source().items()}
        outputs = model.generate(
            **rows, num_beams=num_beams, max_new_tokens=3, return_dict_in_generate=True
        )
        found = tensors_within(outputs[CACHE], set())
        assert found
        sizes.append(sum(tensor.numel() for tensor in found))
    assert sizes[1] == 2 * sizes[0]
