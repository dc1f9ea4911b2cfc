"""Which pairs share a batch, in which order, on which process; and padding.

Order is a pure function of (seed, epoch, rank, world size): a run can be repeated, and resumed in
the middle of an epoch, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from ..errors import InputError
from ..modeling.text_bahdanau import PAD_ID

if TYPE_CHECKING:
    import datasets

Feature = Mapping[str, Any]
Batch = dict[str, torch.Tensor]
Flat = tuple[np.ndarray, np.ndarray]  # the ids of several sequences in one; how many each has

IGNORED_LABEL = -100
NO_LINK = -1  # in the place of a source token: the target token belongs to none
_FILLERS = {"input_ids": PAD_ID, "labels": IGNORED_LABEL, "best_sources": NO_LINK}
# Batches should differ between epochs: pairs are sorted by length only within so many steps, and
# sources are taken to be longer by up to so many tokens, at random. Targets are not: each token
# more is a step more of the decoder for the whole batch.
_STEPS_PER_WINDOW = 100
_SOURCE_JITTER_TOKENS = 2


class LengthBucketBatchSampler(Sampler[list[int]]):
    """Lists of indices of pairs of like length, equally many lists for every rank.

    In an epoch every pair is used exactly once over all ranks. The batches of one step, one for
    each rank, are neighbours in length, so that no rank waits long for another. Where pairs do not
    fill the last step, its batches are smaller rather than missing.

    Args:
        source_lengths: tokens of each source.
        target_lengths: tokens of each target.
        batch_size: most pairs in a batch (one more in the single case that there are too few
            pairs to give every rank a batch in the last step).
        max_tokens: most tokens in a batch: pairs times the longest side of any of them, padding
            included. At least one of `batch_size` and `max_tokens` is needed; both may be given.
        rank: this process, of `world_size`, from 0.
        shuffle: False: the same order in every epoch, by length or, without `bucket`, as given.
        bucket: False: pairs of any length share a batch.

    Raises:
        InputError: fewer pairs than processes, or a pair that does not fit into `max_tokens`.
        ValueError: arguments that contradict each other.
    """

    def __init__(
        self,
        source_lengths: Sequence[int] | np.ndarray,
        target_lengths: Sequence[int] | np.ndarray,
        *,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        bucket: bool = True,
    ) -> None:
        self._sources = np.asarray(source_lengths, dtype=np.int64)
        self._targets = np.asarray(target_lengths, dtype=np.int64)
        if self._sources.ndim != 1 or self._sources.shape != self._targets.shape:
            shapes = f"{self._sources.shape} and {self._targets.shape}"
            raise ValueError(f"expected lengths of shape (N,) twice, received {shapes}")
        if not 0 <= rank < world_size:
            raise ValueError(f"expected 0 <= rank < world_size, received {rank}, {world_size}")
        if batch_size is None and max_tokens is None:
            raise ValueError("expected batch_size or max_tokens, received neither")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"expected batch_size >= 1, received {batch_size}")
        if len(self._sources) < world_size:
            raise InputError(
                f"{len(self._sources)} pairs are too few for {world_size} processes: each needs one"
            )
        self._longest = np.maximum(self._sources, self._targets)
        if max_tokens is not None and self._longest.max() > max_tokens:
            raise InputError(
                f"a pair of {self._longest.max()} tokens does not fit into "
                f"--max_tokens_per_batch {max_tokens}: raise it or lower the maximum lengths"
            )
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.shuffle, self.bucket = shuffle, bucket
        self.epoch = 0
        self._start = 0
        self._planned: tuple[int, list[list[np.ndarray]]] | None = None

    def __len__(self) -> int:
        """Batches of this rank in the present epoch, from its beginning."""
        return len(self._steps())

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's batches, after `load_state_dict` from where that run stood."""
        steps, self._start = self._steps()[self._start :], 0
        for step in steps:
            yield step[self.rank].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to iterate; another one than before starts at its beginning."""
        if epoch != self.epoch:
            self._start = 0
        self.epoch = epoch

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration begin in this `epoch`, after so many `batches_done`."""
        self.epoch = int(state["epoch"])
        self._start = int(state["batches_done"])

    # --- planning an epoch -----------------------------------------------------------------------

    def _steps(self) -> list[list[np.ndarray]]:
        """The epoch's steps; each is `world_size` arrays of indices."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = (self.epoch, self._plan())
        return self._planned[1]

    def _plan(self) -> list[list[np.ndarray]]:
        random = np.random.default_rng((self.seed, self.epoch))
        number = len(self._sources)
        order = random.permutation(number) if self.shuffle else np.arange(number)
        batches = self._cut(self._by_length(order, random) if self.bucket else order)
        size = self.world_size
        steps = [batches[i : i + size] for i in range(0, len(batches), size)]
        self._fill_last(steps)
        if self.shuffle:
            steps = [steps[i] for i in random.permutation(len(steps))]
            steps = [[step[i] for i in random.permutation(size)] for step in steps]
        return steps

    def _by_length(self, order: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Sort windows of `order` by target, then source length, in turn upwards and downwards."""
        sources, window = self._sources, len(order)
        if self.shuffle:
            fit = self.batch_size or window
            if self.max_tokens is not None:
                fit = min(fit, int(self.max_tokens / self._longest.mean()) + 1)
            window = _STEPS_PER_WINDOW * self.world_size * fit
            sources = sources + random.integers(0, _SOURCE_JITTER_TOKENS + 1, len(sources))
        pieces: list[np.ndarray] = []
        for start in range(0, len(order), window):
            piece = order[start : start + window]
            piece = piece[np.lexsort((sources[piece], self._targets[piece]))]
            # The end of one window and the beginning of the next often share a batch.
            pieces.append(piece if len(pieces) % 2 == 0 else piece[::-1])
        return np.concatenate(pieces)

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        """Cut `order` into batches as large as the bounds allow."""
        most = self.batch_size or len(order)
        if self.max_tokens is None:
            return [order[i : i + most] for i in range(0, len(order), most)]
        bounds, longest = [0], 0
        for place, length in enumerate(self._longest[order].tolist()):
            size = place - bounds[-1] + 1
            longest = max(longest, length)
            if size > most or size * longest > self.max_tokens:
                bounds.append(place)
                longest = length
        bounds.append(len(order))
        return [order[a:b] for a, b in pairwise(bounds)]

    def _fill_last(self, steps: list[list[np.ndarray]]) -> None:
        """Make of the last step's batches, if they are too few, as many as there are ranks.

        They are halved; if they hold too few pairs, earlier steps give up one pair each; if those
        have none to spare (one pair in each batch), the last pairs are spread over the step before.
        """
        batches, earlier = steps[-1], steps[:-1]
        while len(batches) < self.world_size:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            if len(batches[largest]) > 1:
                batches[largest : largest + 1] = np.array_split(batches[largest], 2)
                continue
            places = ((step, i) for step in earlier for i in range(self.world_size))
            giving, place = max(places, key=lambda at: len(at[0][at[1]]))
            if len(giving[place]) == 1:
                for i, single in enumerate(batches):
                    earlier[-1][i] = np.concatenate([earlier[-1][i], single])
                steps.pop()
                return
            batches.append(giving[place][-1:])
            giving[place] = giving[place][:-1]


class PairCollator:
    """Pads features into tensors, to the longest of a batch or to fixed lengths `pad_to`."""

    def __init__(self, pad_to: tuple[int, int] | None = None) -> None:
        self.pad_to = pad_to

    def __call__(self, features: Sequence[Feature]) -> Batch:
        """Collate one batch.

        Returns:
            int64 tensors: `input_ids` and `attention_mask` `(B, S)`; if given, `labels` `(B, T)`,
            and `best_sources` `(B, T)`: for each label the place of its source token, or `NO_LINK`.

        Raises:
            ValueError: a sequence longer than `pad_to`.
        """
        rows = {name: [f[name] for f in features] for name in _FILLERS if name in features[0]}
        masks = [f.get("attention_mask", [1] * len(f["input_ids"])) for f in features]
        rows["attention_mask"] = masks
        return _padded({name: flat_ids(column) for name, column in rows.items()}, self.pad_to)


class Rooms(NamedTuple):
    """Few shapes that batches are padded to: on a GPU a graph of a step is recorded for each.

    Lengths go up to a multiple of a quarter of the power of two below them: targets up to 8 not at
    all, sources always to a multiple of 4. The number of pairs goes up to as many as the sampler's
    bounds, given here, allow at such lengths, or half of it, and so on.

    With the recipe `base`, 20 epochs of the bundled pairs have 41 shapes in place of 254, fewer
    than the graphs that are kept, with 6 % more steps of the decoder and 16 % more tokens.
    """

    batch_size: int | None
    max_tokens: int | None

    def __call__(self, pairs: int, source: int, target: int) -> tuple[int, int, int]:
        """The shape for so many pairs, of sources and targets of so many tokens."""
        longest, sides = 1, []
        for length, least in ((source, 4), (target, 1)):
            step = max(least, (1 << (length - 1).bit_length()) // 8)
            sides.append(-(-length // step) * step)
            longest = max(longest, sides[-1] - step + 1)  # at least, in this room
        most = self.batch_size or self.max_tokens or pairs
        if self.max_tokens is not None:
            most = min(most, self.max_tokens // longest)
        while most // 2 >= pairs:
            most //= 2
        return max(most, pairs), sides[0], sides[1]


class PairTable(Dataset[Batch]):
    """Batches of an encoded data set: `table[indices]` is what `PairCollator` makes of these rows.

    No row becomes a list of Python, and no id is copied before it is asked for: what is a mapped
    file remains one. In memory are 12 bytes for each sequence.

    Args:
        dataset: with the columns `input_ids` and, if they are wanted, `labels`, `best_sources`.
        pad_to: fixed lengths of source and target.
        rooms: fill batches up to these shapes, with rows that have one token of padding to read
            and nothing to predict. Fixed lengths come first.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        pad_to: tuple[int, int] | None = None,
        rooms: Rooms | None = None,
    ) -> None:
        self._arguments = (dataset, pad_to, rooms)
        self.pad_to, self.rooms = pad_to, rooms
        names = [name for name in _FILLERS if name in dataset.column_names]
        self._columns = {name: _ListColumn(dataset, name) for name in names}

    def __reduce__(self) -> tuple[Any, ...]:
        """What a worker that is started afresh makes its own table of: not of this memory."""
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._columns["input_ids"].lengths)

    @property
    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each source and each target."""
        return self._columns["input_ids"].lengths, self._columns["labels"].lengths

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Collate the pairs of these places; see `PairCollator`."""
        places = np.asarray(indices)
        columns = {name: column.take(places) for name, column in self._columns.items()}
        return _padded(columns, self.pad_to, self.rooms)


class _ListColumn:
    """A column of lists as one array, from Arrow's first piece of it to the last."""

    def __init__(self, dataset: datasets.Dataset, name: str) -> None:
        import pyarrow as pa  # type: ignore[import-untyped]

        pieces = [piece for piece in dataset.data.column(name).chunks if len(piece.values)]
        dtype = np.dtype(pieces[0].values.type.to_pandas_dtype())
        buffers = [piece.values.buffers()[1] for piece in pieces]
        begin = min(buffer.address for buffer in buffers)
        size = max(buffer.address + buffer.size for buffer in buffers) - begin
        # What lies between the pieces is never read; the view keeps the data set alive.
        view = pa.foreign_buffer(begin, size - size % dtype.itemsize, dataset)
        self.ids = np.frombuffer(view, dtype)
        starts, lengths = [], []
        for piece, buffer in zip(pieces, buffers, strict=True):
            place, odd = divmod(buffer.address - begin, dtype.itemsize)
            assert not odd  # Arrow's buffers begin at multiples of 8
            bounds = piece.offsets.to_numpy()
            starts.append(place + piece.values.offset + bounds[:-1].astype(np.int64))
            lengths.append(np.diff(bounds))
        self.starts, self.lengths = np.concatenate(starts), np.concatenate(lengths)
        assert len(self.lengths) == len(dataset.data)
        if dataset._indices is not None:  # rows were selected or shuffled
            rows = dataset._indices.column(0).to_numpy()
            self.starts, self.lengths = self.starts[rows], self.lengths[rows]

    def take(self, places: np.ndarray) -> Flat:
        """The ids of these lists, one after the other, and how many each has."""
        lengths = self.lengths[places]
        ends = np.cumsum(lengths)
        shifts = np.repeat(self.starts[places] - (ends - lengths), lengths)
        return self.ids[shifts + np.arange(len(shifts))], lengths


def flat_ids(rows: Sequence[Sequence[int]]) -> Flat:
    """The ids of several sequences one after the other, and how many each has."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum()), lengths


def fill_rows(
    values: np.ndarray, lengths: np.ndarray, shape: tuple[int, int], filler: int = 0
) -> np.ndarray:
    """Sequences as `flat_ids` gives them in a table, each at the beginning of a row."""
    table = np.full(shape, filler, np.int64)
    table[: len(lengths)][np.arange(shape[1]) < lengths[:, None]] = values
    return table


def _padded(
    columns: dict[str, Flat], pad_to: tuple[int, int] | None, rooms: Rooms | None = None
) -> Batch:
    """The tensors of a batch; where no column is the mask, every token is to be read."""
    ids, lengths = columns["input_ids"]
    columns.setdefault("attention_mask", (np.ones(len(ids), np.int64), lengths))
    pairs, sides = len(lengths), [int(columns[n][1].max()) for n in _FILLERS if n in columns][:2]
    for length, most in zip(sides, pad_to or (), strict=False):
        if length > most:
            raise ValueError(f"expected at most {most} tokens, received {length}")
    room, *sides = rooms(pairs, *sides) if rooms else (pairs, *sides)
    batch = {}
    for name, (values, lengths) in columns.items():
        width = (pad_to or sides)[name in ("labels", "best_sources")]
        table = fill_rows(values, lengths, (room, width), _FILLERS.get(name, 0))
        batch[name] = torch.from_numpy(table)
    batch["attention_mask"][pairs:, 0] = 1
    return batch


class StreamBatcher(IterableDataset):
    """Batches of features from a stream of unknown length, over and over, for one rank.

    The stream is read in windows of `buffer_size` pairs that continue from one epoch into the next.
    Every rank reads the whole stream and takes its batches of each window as
    `LengthBucketBatchSampler` divides them; so all ranks have equally many, and in each window
    every pair is used once. Use with `DataLoader(batcher, batch_size=None, collate_fn=...)`.

    Args:
        dataset: any re-iterable of features.
        buffer_size: pairs held in memory and shuffled together.
        **sampling: as those of `LengthBucketBatchSampler`.

    Raises:
        InputError: on iteration: an empty stream, or a window smaller than `world_size`.
    """

    def __init__(
        self, dataset: Iterable[Feature], *, buffer_size: int = 10_000, **sampling: Any
    ) -> None:
        self.dataset = dataset
        self.buffer_size = buffer_size
        self.sampling = sampling
        self._window = self._batches_done = 0
        self._pairs_per_pass: int | None = None

    def __iter__(self) -> Iterator[list[Feature]]:
        """Yield lists of features, endlessly; after `load_state_dict` from where that run stood."""
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise InputError("a stream is read by one worker: --dataloader_num_workers 0 or 1")
        features = self._endless(self._window * self.buffer_size)
        while True:
            window = list(islice(features, self.buffer_size))
            sampler = LengthBucketBatchSampler(
                [len(feature["input_ids"]) for feature in window],
                [len(feature["labels"]) for feature in window],
                **self.sampling,
            )
            sampler.load_state_dict({"epoch": self._window, "batches_done": self._batches_done})
            for indices in sampler:
                self._batches_done += 1
                yield [window[i] for i in indices]
            self._window += 1
            self._batches_done = 0

    def _endless(self, skipped: int) -> Iterator[Feature]:
        """The features of epoch after epoch, without the first `skipped`."""
        if self._pairs_per_pass:
            skipped %= self._pairs_per_pass
        while True:
            number = 0
            for number, feature in enumerate(self.dataset, start=1):
                if number > skipped:
                    yield feature
            if number == 0:
                raise InputError("the stream of training pairs holds no pair")
            self._pairs_per_pass = number
            skipped = max(0, skipped - number)

    def state_dict(self) -> dict[str, int | None]:
        """Where this run stands in the stream, as far as batches were handed out."""
        return {
            "window": self._window,
            "batches_done": self._batches_done,
            "pairs_per_pass": self._pairs_per_pass,
        }

    def load_state_dict(self, state: Mapping[str, int | None]) -> None:
        """Let the next iteration go on where `state_dict` was taken."""
        self._window = int(state["window"] or 0)
        self._batches_done = int(state["batches_done"] or 0)
        self._pairs_per_pass = state["pairs_per_pass"]
