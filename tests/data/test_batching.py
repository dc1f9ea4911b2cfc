"""Every pair once per epoch over all ranks, in an order that (seed, epoch, rank, size) fixes."""

from __future__ import annotations

import pickle
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, concatenate_datasets
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq

from bahdanau_hf.data import batching
from bahdanau_hf.data.batching import (
    NO_LINK,
    LengthBucketBatchSampler,
    PairCollator,
    PairTable,
    Rooms,
    StreamBatcher,
)
from bahdanau_hf.data.preprocessing import ENCODED_FEATURES
from bahdanau_hf.data.vocabulary import train_tokenizer
from bahdanau_hf.errors import InputError

Batches = list[list[int]]

SIDES = ("input_ids", "labels")
LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=70)


def lengths(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sources = random.integers(2, 40, number)
    return sources, np.maximum(2, sources + random.integers(-3, 4, number))


def all_ranks(sides: Any, world_size: int, **options: Any) -> list[Batches]:
    samplers = [
        LengthBucketBatchSampler(*sides, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    ranks = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(batches) for batches in ranks]
    return ranks


def steps_of(sampler: LengthBucketBatchSampler, epoch: int) -> Batches:
    sampler.set_epoch(epoch)
    return list(sampler)


# --- the sampler ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(
    LENGTHS,
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(1, 9)),
    st.one_of(st.none(), st.integers(30, 200)),
    st.booleans(),
    st.booleans(),
)
def test_every_pair_once_and_batch_counts_equal(
    pairs: list[tuple[int, int]],
    world_size: int,
    batch_size: int | None,
    max_tokens: int | None,
    shuffle: bool,
    bucket: bool,
) -> None:
    assume(batch_size is not None or max_tokens is not None)
    assume(len(pairs) >= world_size)
    sides = np.array(pairs).T
    ranks = all_ranks(
        sides,
        world_size,
        batch_size=batch_size,
        max_tokens=max_tokens,
        seed=3,
        shuffle=shuffle,
        bucket=bucket,
    )
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    assert all(batches)
    assert sorted(i for batch in batches for i in batch) == list(range(len(pairs)))
    longest = sides.max(axis=0)
    costs = [len(batch) * longest[batch].max() for batch in batches]
    too_large = [
        (batch_size is not None and len(batch) > batch_size)
        or (max_tokens is not None and cost > max_tokens and len(batch) > 1)
        for batch, cost in zip(batches, costs, strict=True)
    ]
    # Only where no batch has a pair to spare may one in each of the last batches be too many.
    if any(too_large):
        assert max(map(len, batches)) == 2
        assert sum(too_large) < world_size
        assert len(pairs) % world_size


def test_batches_are_as_large_as_allowed() -> None:
    sides = lengths(1000)
    (batches,) = all_ranks(sides, 1, batch_size=64, seed=0)
    assert sorted(map(len, batches)) == [1000 % 64] + [64] * (1000 // 64)
    (batches,) = all_ranks(sides, 1, max_tokens=512, seed=0, shuffle=False)
    longest = np.maximum(*sides)
    for batch, following in pairwise(batches):
        grown = [*batch, following[0]]
        assert len(batch) * longest[batch].max() <= 512 < len(grown) * longest[grown].max()


def test_both_bounds_hold_together() -> None:
    sides = lengths(1000)
    (batches,) = all_ranks(sides, 1, batch_size=20, max_tokens=400, seed=0)
    costs = [len(b) * np.maximum(*sides)[b].max() for b in batches]
    assert max(map(len, batches)) == 20
    assert 380 < max(costs) <= 400


def test_order_is_a_function_of_seed_and_epoch() -> None:
    sides = lengths(500)
    options: dict[str, Any] = {"batch_size": 16, "rank": 1, "world_size": 3}
    one = LengthBucketBatchSampler(*sides, seed=5, **options)
    epochs = [steps_of(one, epoch) for epoch in range(4)]
    assert len({str(epoch) for epoch in epochs}) == 4
    other = LengthBucketBatchSampler(*sides, seed=5, **options)
    assert steps_of(other, 2) == epochs[2]  # although it never ran epochs 0 and 1
    assert steps_of(one, 2) == epochs[2]
    np.random.seed(1)  # noqa: NPY002 -- the global state must not matter
    torch.manual_seed(1)
    assert steps_of(other, 3) == epochs[3]
    assert steps_of(LengthBucketBatchSampler(*sides, seed=6, **options), 2) != epochs[2]
    still = LengthBucketBatchSampler(*sides, seed=5, shuffle=False, **options)
    assert steps_of(still, 1) == steps_of(still, 2)


def test_composition_of_batches_changes_between_epochs() -> None:
    sampler = LengthBucketBatchSampler(*lengths(500), batch_size=16, seed=5)
    first, second = ({frozenset(b) for b in steps_of(sampler, epoch)} for epoch in (0, 1))
    assert len(first & second) < 5


def padded_share(batches: Batches, sides: tuple[np.ndarray, np.ndarray]) -> float:
    real = sum(side.sum() for side in sides)
    return 1 - real / sum(len(b) * (sides[0][b].max() + sides[1][b].max()) for b in batches)


def test_buckets_waste_little_and_ranks_keep_step() -> None:
    sides = lengths(6000)
    (random,) = all_ranks(sides, 1, batch_size=32, seed=0, bucket=False)
    assert padded_share(random, sides) > 0.4
    for bound in ({"batch_size": 32}, {"max_tokens": 800}):
        ranks = all_ranks(sides, 3, seed=0, **bound)
        assert padded_share([batch for rank in ranks for batch in rank], sides) < 0.1
        for step in zip(*ranks, strict=True):
            longest = [sides[1][batch].max() for batch in step]
            assert max(longest) - min(longest) <= 6  # lengths range from 2 to 42


def test_no_rank_always_gets_the_long_batches() -> None:
    sides = lengths(6000)
    ranks = all_ranks(sides, 2, batch_size=32, seed=0)
    first, second = (np.array([sides[1][b].mean() for b in batches]) for batches in ranks)
    longer, shorter = (first > second).sum(), (first < second).sum()
    assert 0.3 < longer / (longer + shorter) < 0.7


def test_without_buckets_and_shuffling_the_order_is_as_given() -> None:
    (batches,) = all_ranks(lengths(10), 1, batch_size=4, seed=0, shuffle=False, bucket=False)
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("number", "world_size", "batch_size", "sizes"),
    [
        (8, 2, 4, [[4], [4]]),
        (9, 2, 4, [[4, 1], [3, 1]]),  # the ninth pair cannot be a step alone: another joins it
        (12, 2, 4, [[4, 2], [4, 2]]),  # one batch left over is halved
        (5, 3, 4, [[2], [1], [2]]),
        (7, 3, 1, [[1, 1], [1, 1], [1, 2]]),  # nothing to spare: one batch takes two
        (3, 3, 8, [[1], [1], [1]]),
    ],
)
def test_ragged_end(number: int, world_size: int, batch_size: int, sizes: list[list[int]]) -> None:
    ranks = all_ranks(lengths(number), world_size, batch_size=batch_size, seed=0, shuffle=False)
    found = [sorted(map(len, step), reverse=True) for step in zip(*ranks, strict=True)]
    assert found == [sorted(step, reverse=True) for step in zip(*sizes, strict=True)]


@pytest.mark.parametrize("done", [0, 1, 7, 19, 20])
def test_resuming_inside_an_epoch(done: int) -> None:
    sides = lengths(640)
    whole = LengthBucketBatchSampler(*sides, batch_size=32, seed=1)
    whole.set_epoch(3)
    run = iter(whole)
    before = list(islice(run, done))
    state = {"epoch": 3, "batches_done": done}
    rest = list(run)
    assert len(before) + len(rest) == len(whole) == 20

    resumed = LengthBucketBatchSampler(*sides, batch_size=32, seed=1)
    resumed.load_state_dict(state)
    resumed.set_epoch(3)  # a loop sets the epoch that it resumes, too
    assert list(resumed) == rest
    assert list(resumed) == before + rest  # only the next iteration starts late
    resumed.load_state_dict(state)
    assert steps_of(resumed, 4) == steps_of(whole, 4)


def test_a_sampler_that_was_read_further_goes_back() -> None:
    sampler = LengthBucketBatchSampler(*lengths(640), batch_size=32, seed=1)
    fetched = list(islice(iter(sampler), 9))
    sampler.load_state_dict({"epoch": 0, "batches_done": 5})
    assert list(islice(iter(sampler), 4)) == fetched[5:]


def test_mistakes_of_the_sampler() -> None:
    with pytest.raises(InputError, match="2 pairs are too few for 3 processes"):
        LengthBucketBatchSampler([3, 4], [3, 4], batch_size=4, seed=0, world_size=3)
    with pytest.raises(InputError, match=r"a pair of 9 tokens does not fit into .* 8: raise it"):
        LengthBucketBatchSampler([3, 4], [3, 9], max_tokens=8, seed=0)
    with pytest.raises(InputError, match="0 pairs are too few"):
        LengthBucketBatchSampler([], [], batch_size=4, seed=0)
    for wrong, message in (
        ({}, "batch_size or max_tokens"),
        ({"batch_size": 0}, "batch_size >= 1, received 0"),
        ({"batch_size": 1, "rank": 1}, "received 1, 1"),
    ):
        with pytest.raises(ValueError, match=message):
            LengthBucketBatchSampler([3, 4], [3, 4], seed=0, **wrong)
    with pytest.raises(ValueError, match=r"received \(2,\) and \(3,\)"):
        LengthBucketBatchSampler([3, 4], [3, 4, 5], batch_size=1, seed=0)


# --- the collator --------------------------------------------------------------------------------

FEATURES = [
    {"input_ids": [5, 6, 2], "attention_mask": [1, 1, 1], "labels": [4, 2]},
    {"input_ids": [7, 2], "attention_mask": [1, 1], "labels": [4, 5, 6, 2]},
]


def test_collator_known_answer() -> None:
    batch = PairCollator()(FEATURES)
    expected = {
        "input_ids": [[5, 6, 2], [7, 2, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[4, 2, -100, -100], [4, 5, 6, 2]],
    }
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_collator_with_fixed_lengths() -> None:
    batch = PairCollator(pad_to=(5, 6))(FEATURES)
    assert batch["input_ids"].tolist() == [[5, 6, 2, 0, 0], [7, 2, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert batch["labels"].shape == (2, 6)
    with pytest.raises(ValueError, match="expected at most 3 tokens, received 4"):
        PairCollator(pad_to=(5, 3))(FEATURES)


def test_collator_without_labels_or_mask() -> None:
    batch = PairCollator()([{"input_ids": [5, 2]}, {"input_ids": [5, 6, 2]}])
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_the_collator_of_transformers_does_the_same() -> None:
    tokenizer = train_tokenizer(["call us", "no"], ["联系我们", "不"], min_frequency=1)
    features = [
        dict(tokenizer(source, text_target=target))
        for source, target in [("call us", "不"), ("no", "联系我们"), ("no, call", "不")]
    ]
    ours = PairCollator()(features)
    theirs = DataCollatorForSeq2Seq(tokenizer)(features)
    assert set(theirs) == set(ours)
    for name, tensor in ours.items():
        assert torch.equal(theirs[name], tensor), name


# --- batches from a table ------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9)


@st.composite
def encoded_pairs(draw: st.DrawFn) -> Dataset:
    """Pairs in one piece or several, selected, shuffled, cut, with links or without."""
    pairs = draw(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=20))
    rows = [
        {"input_ids": source, "attention_mask": [1] * len(source), "labels": target}
        for source, target in pairs
    ]
    cut = draw(st.integers(0, len(rows)))
    parts = [
        Dataset.from_list(part, Features(ENCODED_FEATURES))
        for part in (rows[:cut], rows[cut:])
        if part
    ]
    encoded = concatenate_datasets(parts)
    if draw(st.booleans()):
        links = [[draw(st.integers(-1, 8)) for _ in row["labels"]] for row in rows]
        encoded = encoded.add_column("best_sources", links)
    if draw(st.booleans()):
        chosen = st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=30)
        encoded = encoded.select(draw(chosen))
    if draw(st.booleans()):
        encoded = encoded.shuffle(seed=0)
    start = draw(st.integers(0, len(encoded) - 1))
    return encoded.select(range(start, len(encoded)))


@settings(deadline=None, max_examples=40)
@given(st.data(), encoded_pairs(), st.one_of(st.none(), st.just((9, 11))))
def test_a_table_makes_what_the_collator_makes(
    data: st.DataObject, encoded: Dataset, pad_to: tuple[int, int] | None
) -> None:
    table = PairTable(encoded, pad_to)
    assert len(table) == len(encoded)
    assert [side.tolist() for side in table.lengths] == [
        [len(row) for row in encoded[name]] for name in SIDES
    ]
    indices = data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=12))
    expected = PairCollator(pad_to)(encoded.__getitems__(indices))
    for made in (table[indices], pickle.loads(pickle.dumps(table))[np.array(indices)]):
        assert made.keys() == expected.keys()
        for name, tensor in expected.items():
            assert made[name].dtype == torch.int64
            assert torch.equal(made[name], tensor), name
    with pytest.raises(ValueError, match="expected at most 0 tokens, received"):
        PairTable(encoded, (0, 9))[indices]


def test_a_table_reads_a_mapped_file_where_it_is(tmp_path: Path) -> None:
    rows = [{"input_ids": [i, 2], "labels": [i, 7, 2]} for i in range(50)]
    features = Features({name: ENCODED_FEATURES[name] for name in SIDES})
    written = Dataset.from_list(rows, features)
    written = written.map(
        lambda row: row, cache_file_name=str(tmp_path / "a.arrow"), writer_batch_size=7
    )
    table = PairTable(written)
    for name, column in table._columns.items():
        pieces = written.data.column(name).chunks
        assert len(pieces) == 8
        assert column.ids.dtype == np.int32
        for piece in pieces:
            assert np.shares_memory(column.ids, piece.values.to_numpy())
    assert table[[49, 0, 7]]["labels"].tolist() == [[49, 7, 2], [0, 7, 2], [7, 7, 2]]


def test_workers_make_the_same_batches() -> None:
    encoded = Dataset.from_list(stream_of(40), Features({n: ENCODED_FEATURES[n] for n in SIDES}))
    table = PairTable(encoded)
    sampler = LengthBucketBatchSampler(*table.lengths, batch_size=7, seed=0)
    expected = [PairCollator()(encoded.__getitems__(indices)) for indices in sampler]
    for workers in (0, 2):
        made = DataLoader(table, batch_size=None, sampler=sampler, num_workers=workers)
        assert len(made) == len(expected)
        for one, other in zip(made, expected, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in other)


@settings(deadline=None, max_examples=30)
@given(encoded_pairs(), st.integers(20, 60))
def test_a_room_adds_padding_and_nothing_else(encoded: Dataset, batch_size: int) -> None:
    rooms, indices = Rooms(batch_size, None), range(len(encoded))
    small = PairTable(encoded)[indices]
    pairs, source = small["input_ids"].shape
    room, source_room, target_room = rooms(pairs, source, small["labels"].shape[1])
    expected = {
        "input_ids": torch.zeros(room, source_room, dtype=torch.int64),
        "attention_mask": torch.zeros(room, source_room, dtype=torch.int64),
        "labels": torch.full((room, target_room), -100),
        "best_sources": torch.full((room, target_room), NO_LINK),
    }
    for name, tensor in small.items():
        expected[name][:pairs, : tensor.shape[1]] = tensor
    expected["attention_mask"][pairs:, 0] = 1  # no row without a token to read
    table = PairTable(encoded, rooms=rooms)
    for large in (table[indices], pickle.loads(pickle.dumps(table))[indices]):
        assert large.keys() == small.keys()
        assert all(torch.equal(large[name], expected[name]) for name in large)


def test_a_table_of_ids_that_begin_inside_of_a_buffer() -> None:
    ids = pa.array(range(20), pa.int32()).slice(3)
    column = pa.ListArray.from_arrays(pa.array([0, 2, 3, 7], pa.int32()), ids).slice(1)
    table = PairTable(Dataset(pa.table({"input_ids": column, "labels": column})))
    assert table[[1, 0]]["labels"].tolist() == [[6, 7, 8, 9], [5, -100, -100, -100]]


@pytest.mark.parametrize(
    ("rooms", "shape", "expected"),
    [
        (Rooms(None, 1500), (115, 12, 13), (115, 12, 14)),  # 13 is the least of the longest
        (Rooms(None, 1500), (110, 13, 13), (115, 16, 14)),
        (Rooms(None, 1500), (58, 13, 13), (115, 16, 14)),
        (Rooms(None, 1500), (57, 13, 13), (57, 16, 14)),  # half
        (Rooms(None, 1500), (29, 13, 13), (57, 16, 14)),
        (Rooms(None, 1500), (187, 5, 8), (187, 8, 8)),
        (Rooms(None, 1500), (1, 9, 17), (1, 12, 20)),
        (Rooms(None, 1500), (44, 33, 33), (45, 40, 40)),
        (Rooms(None, 1500), (15, 97, 65), (15, 112, 80)),
        (Rooms(64, None), (64, 9, 16), (64, 12, 16)),
        (Rooms(64, None), (63, 1, 1), (64, 4, 1)),
        (Rooms(64, None), (32, 4, 2), (32, 4, 2)),
        (Rooms(64, None), (65, 4, 31), (65, 4, 32)),  # one more, to give every process a batch
        (Rooms(64, 100), (3, 30, 30), (3, 32, 32)),
        (Rooms(2, 1500), (1, 9, 10), (1, 12, 10)),
    ],
)
def test_rooms(rooms: Rooms, shape: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    assert rooms(*shape) == expected
    assert rooms(*expected) == expected


def test_rooms_are_few_and_little_larger() -> None:
    sides = lengths(20_000)
    (batches,) = all_ranks(sides, 1, max_tokens=1500, seed=0)
    shapes = [(len(b), int(sides[0][b].max()), int(sides[1][b].max())) for b in batches]
    padded = [Rooms(None, 1500)(*shape) for shape in shapes]
    assert len(set(padded)) < 0.25 * len(set(shapes))
    steps, tokens = (
        [sum(count(shape) for shape in of) for of in (shapes, padded)]
        for count in (lambda shape: shape[2], lambda shape: shape[0] * (shape[1] + shape[2]))
    )
    assert steps[0] <= steps[1] < 1.1 * steps[0]
    assert tokens[0] <= tokens[1] < 1.2 * tokens[0]


# --- streams -------------------------------------------------------------------------------------


def stream_of(number: int) -> list[dict[str, list[int]]]:
    sources, targets = lengths(number)
    return [
        {"input_ids": [i] * s, "labels": [i] * t}
        for i, (s, t) in enumerate(zip(sources.tolist(), targets.tolist(), strict=True))
    ]


def numbers(batch: list[Any]) -> list[int]:
    return [feature["input_ids"][0] for feature in batch]


@pytest.mark.parametrize("world_size", [1, 3])
def test_stream_uses_every_pair_once_per_pass(world_size: int) -> None:
    stream = stream_of(120)
    options: dict[str, Any] = {"buffer_size": 40, "batch_size": 7, "seed": 0}
    ranks = []
    for rank in range(world_size):
        batcher = StreamBatcher(stream, rank=rank, world_size=world_size, **options)
        iterator = iter(batcher)
        windows: list[list[list[int]]] = [[], [], []]
        for _ in range(3 * 40):
            batch = numbers(next(iterator))
            window = batcher.state_dict()["window"]
            if window == 3:
                break
            windows[window or 0].append(batch)
        ranks.append(windows)
    for window in range(3):
        counts = [len(windows[window]) for windows in ranks]
        assert len(set(counts)) == 1
        used = [i for windows in ranks for batch in windows[window] for i in batch]
        assert sorted(used) == list(range(40 * window, 40 * window + 40))


def test_stream_runs_on_and_shuffles_anew() -> None:
    batcher = StreamBatcher(stream_of(50), buffer_size=20, batch_size=5, seed=0)
    batches = [numbers(batch) for batch in islice(iter(batcher), 40)]
    used = [i for batch in batches for i in batch]
    assert [used.count(i) for i in range(50)] == [4] * 50  # 40 batches of 5 are 4 passes
    assert used[:20] != used[100:120]
    assert sorted(used[:20]) == sorted(used[100:120])
    assert sorted(used[40:60]) == sorted([*range(40, 50), *range(10)])  # a window over the seam


@pytest.mark.parametrize("done", [0, 1, 4, 9, 10, 23, 57])
def test_stream_resumes(done: int) -> None:
    options: dict[str, Any] = {"buffer_size": 20, "max_tokens": 120, "seed": 2}
    whole = StreamBatcher(stream_of(50), **options)
    run = iter(whole)
    for _ in range(done):
        next(run)
    state = whole.state_dict()
    resumed = StreamBatcher(stream_of(50), **options)
    resumed.load_state_dict(state)
    assert list(islice(iter(resumed), 30)) == list(islice(run, 30))


def test_stream_in_a_data_loader() -> None:
    batcher = StreamBatcher(stream_of(50), buffer_size=20, batch_size=5, seed=0)
    loader = DataLoader(batcher, batch_size=None, collate_fn=PairCollator())
    direct = [PairCollator()(batch) for batch in islice(iter(batcher), 3)]
    batcher.load_state_dict({"window": 0, "batches_done": 0, "pairs_per_pass": None})
    for batch, expected in zip(islice(iter(loader), 3), direct, strict=True):
        assert torch.equal(batch["labels"], expected["labels"])


def test_mistakes_of_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="holds no pair"):
        next(iter(StreamBatcher([], buffer_size=20, batch_size=5, seed=0)))
    tiny = StreamBatcher(stream_of(9), buffer_size=2, batch_size=5, seed=0, world_size=3)
    with pytest.raises(InputError, match="2 pairs are too few for 3 processes"):
        next(iter(tiny))
    monkeypatch.setattr(batching, "get_worker_info", lambda: SimpleNamespace(num_workers=2))
    with pytest.raises(InputError, match="a stream is read by one worker"):
        next(iter(StreamBatcher(stream_of(9), batch_size=5, seed=0)))


# --- what a mutation tester found untested (tests/mutations.md) ----------------------------------


def test_collator_pads_links_as_labels() -> None:
    features = [
        {"input_ids": [5, 6, 2], "labels": [4, 2], "best_sources": [1, NO_LINK]},
        {"input_ids": [7, 2], "labels": [4, 5, 2], "best_sources": [0, 1, 0]},
    ]
    batch = PairCollator()(features)
    assert batch["best_sources"].tolist() == [[1, NO_LINK, NO_LINK], [0, 1, 0]]
    batch = PairCollator(pad_to=(3, 4))(features)  # as long as the longest source
    assert batch["input_ids"].shape == (2, 3)
    assert batch["best_sources"].tolist() == [[1, *[NO_LINK] * 3], [0, 1, 0, NO_LINK]]
    assert PairCollator()(features[:1])["best_sources"].tolist() == [[1, NO_LINK]]


def test_collator_keeps_a_mask_that_is_given() -> None:
    features = [{"input_ids": [5, 6, 2], "attention_mask": [1, 0, 1]}, {"input_ids": [5, 2]}]
    assert PairCollator()(features)["attention_mask"].tolist() == [[1, 0, 1], [1, 1, 0]]


def test_a_stream_groups_by_length_unless_told_otherwise() -> None:
    options: dict[str, Any] = {"batch_size": 5, "seed": 0}

    def first(**more: Any) -> list[list[int]]:
        batcher = StreamBatcher(stream_of(50), buffer_size=50, **options, **more)
        return [numbers(batch) for batch in islice(iter(batcher), 10)]

    assert first() == first(bucket=True) != first(bucket=False)


def test_one_worker_reads_a_stream() -> None:
    def batcher() -> StreamBatcher:
        return StreamBatcher(stream_of(50), buffer_size=20, batch_size=5, seed=0)

    loader = DataLoader(batcher(), batch_size=None, num_workers=1)
    found = [numbers(batch) for batch in islice(iter(loader), 3)]
    assert found == [numbers(batch) for batch in islice(iter(batcher()), 3)]


def test_passes_that_are_done_are_not_read_again() -> None:
    class Counted:
        def __init__(self) -> None:
            self.read = 0

        def __iter__(self) -> Any:
            for feature in stream_of(50):
                self.read += 1
                yield feature

    stream = Counted()
    options: dict[str, Any] = {"buffer_size": 20, "batch_size": 5, "seed": 0}
    batcher = StreamBatcher(stream, **options)
    iterator = iter(batcher)
    expected = [numbers(next(iterator)) for _ in range(41)][-1]  # window 10: four passes before
    state = batcher.state_dict()
    assert state == {"window": 10, "batches_done": 1, "pairs_per_pass": 50}
    resumed = StreamBatcher(stream, **options)
    resumed.load_state_dict(state | {"batches_done": 0})
    stream.read = 0
    assert numbers(next(iter(resumed))) == expected
    assert stream.read <= 21


def test_windows_are_sorted_up_and_down_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_STEPS_PER_WINDOW", 2)
    sides = lengths(500)
    longest = np.maximum(*sides)
    for options, fit in (
        ({"batch_size": 7}, 7),
        ({"max_tokens": 90}, int(90 / longest.mean()) + 1),
    ):
        sampler = LengthBucketBatchSampler(*sides, seed=0, world_size=3, **options)
        order = sampler._by_length(np.arange(500), np.random.default_rng(0))
        window = 2 * 3 * fit
        for number, start in enumerate(range(0, 500, window)):
            piece = order[start : start + window]
            assert sorted(piece) == list(range(start, min(start + window, 500)))
            rising = piece if number % 2 == 0 else piece[::-1]
            assert np.all(np.diff(sides[1][rising]) >= 0)
            assert np.any(np.diff(sides[1][rising]) > 0)


def test_pairs_of_one_length_meet_others_in_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_STEPS_PER_WINDOW", 1)
    sampler = LengthBucketBatchSampler([5] * 400, [5] * 400, batch_size=4, seed=0)
    epochs = [{frozenset(batch) for batch in steps_of(sampler, epoch)} for epoch in range(2)]
    as_given = {frozenset(range(i, i + 4)) for i in range(0, 400, 4)}
    for batches in (*epochs, as_given):
        assert frozenset.union(*batches) == set(range(400))
    assert not epochs[0] & epochs[1]
    assert not epochs[0] & as_given
