"""The pairs of a run: read, cleaned, encoded, and dealt out as micro-batches."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import operator
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from ..checkpoints.save_load import TrainerState
from ..data import batching, sources
from ..data.batching import Batch
from ..data.columns import Told, lines_on_sides
from ..data.noise import SourceNoise
from ..data.preprocessing import DroppedPairs, clean_pairs, encode_pairs, split_validation
from ..data.readers import pair_paths
from ..data.sources import AnyDataset, pair_texts, sentence_key
from ..data.tokenization import UNK_ID
from ..errors import InputError
from .arguments import DataArguments, Settings

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
HELD_OUT_OF_STREAM = 2000  # pairs of a streamed validation or test split, if no limit is given
_ENCODING = (
    *("source_lang", "target_lang", "max_source_length", "max_target_length"),
    *("truncate_long_pairs", "preprocessing_num_workers"),
)
_CLEANING = (*_ENCODING, "chinese_script", "max_length_ratio", "unescape_html")
_READING = ("source_column", "target_column", "encoding", "skip_bad_rows")
_PIECES, _PIECE_BYTES = 64, 2**16  # of a file whose digest is taken from samples


# --- reading, cleaning, encoding -----------------------------------------------------------------


def read_pairs(data: DataArguments) -> dict[str, AnyDataset]:
    """Read what the arguments name: the bundled pairs, files, or a data set of the Hub.

    `max_train_samples` and `max_eval_samples` are applied here. How source and target were told
    apart is logged, with the first pair. Returned are `train`, which may be a stream, and
    `validation` and `test` where given, each with the one column `translation`.

    Raises:
        InputError: see `file_pairs` and `hub_pairs`.
    """
    languages = (data.source_lang, data.target_lang)
    told: list[Told] = []
    splits: dict[str, AnyDataset] = {}
    if data.dataset_name:
        splits = sources.hub_pairs(
            data.dataset_name,
            data.dataset_config_name,
            *languages,
            streaming=data.streaming,
            num_held_out=data.max_eval_samples or HELD_OUT_OF_STREAM,
            split_names={split: getattr(data, f"{split}_split") for split in SPLITS},
            told=told,
            source_column=data.source_column,
            target_column=data.target_column,
        )
        _log_sides(told)
    elif not data.train_file:
        splits = dict(sources.bundled_pairs(*languages))
        if data.streaming:
            splits["train"] = splits["train"].to_iterable_dataset()
    for split in SPLITS:
        if spec := getattr(data, f"{split}_file"):
            splits[split] = _read_files(spec, data, data.streaming and split == "train", told)
    for split, dataset in splits.items():
        limit = data.max_train_samples if split == "train" else data.max_eval_samples
        if limit is not None:
            splits[split] = sources.first_pairs(dataset, limit)
    return splits


def _read_files(spec: str, data: DataArguments, streaming: bool, told: list[Told]) -> AnyDataset:
    """Pairs of files; `told`, how the sides of other files were told apart, grows by these."""
    languages, before = (data.source_lang, data.target_lang), len(told)
    reading = {name: getattr(data, name) for name in _READING}
    dataset = sources.file_pairs(spec, *languages, streaming=streaming, told=told, **reading)
    _log_sides(told[before:])
    return dataset


def _log_sides(told: Sequence[Told]) -> None:
    for line in lines_on_sides(told):
        logger.info("%s", line)


def cleaning_options(data: DataArguments) -> dict[str, Any]:
    """What `clean_pairs` is told."""
    return {name: getattr(data, name) for name in _CLEANING}


def encoding_options(data: DataArguments) -> dict[str, Any]:
    """What `encode_pairs` is told."""
    return {name: getattr(data, name) for name in _ENCODING}


def load_pairs(data: DataArguments) -> tuple[dict[str, AnyDataset], dict[str, DroppedPairs]]:
    """Read and clean all splits; cut validation from train by hash if none is given; mix others in.

    Returns:
        `train`, `validation` and, where given, `test`; and what was dropped, by split (pairs cut
        from train are counted as read in train).

    Raises:
        InputError: see `read_pairs`; or nothing of a split is left.
    """
    splits: dict[str, AnyDataset] = {}
    dropped: dict[str, DroppedPairs] = {}
    options = cleaning_options(data)
    for name, dataset in read_pairs(data).items():
        splits[name], dropped[name] = clean_pairs(dataset, **options, training=name == "train")
        if isinstance(dataset, Dataset) and not len(splits[name]):
            counts = ", ".join(f"{n} {reason}" for reason, n in dropped[name].counts.items())
            raise InputError(f"no pair of {name} is left after cleaning ({counts})")
    if "validation" not in splits:
        train, validation = split_validation(splits["train"], data.validation_split_percentage)
        if data.max_eval_samples is not None:
            validation = sources.first_pairs(validation, data.max_eval_samples)
        splits |= {"train": train, "validation": validation}
    if data.mix_file:
        others, lost = drawn_pairs(data, len(splits["train"]), held_out=splits["validation"])
        splits["train"] = concatenate_datasets([splits["train"], others])
        own = dropped["train"]
        dropped["train"] = replace(own + lost, total=own.total + lost.total)
    return splits, dropped


def drawn_pairs(
    data: DataArguments, num_pairs: int, held_out: AnyDataset
) -> tuple[AnyDataset, DroppedPairs]:
    """Of `mix_file` as many pairs as `mix_ratio` says, cleaned; each run draws the same ones.

    There are `num_pairs` in training without them. No pair that shares a sentence with those
    `held_out` is drawn.

    Raises:
        InputError: see `file_pairs`; or there is none to draw.
    """
    languages = (data.source_lang, data.target_lang)
    held = {sentence_key(text) for side in pair_texts(held_out, *languages) for text in side}
    found = _read_files(str(data.mix_file), data, False, [])
    in_turn = map(int, np.random.default_rng(0).permutation(len(found)))
    free = (
        i for i in in_turn if held.isdisjoint(map(sentence_key, found[i]["translation"].values()))
    )
    drawn = sorted(itertools.islice(free, max(1, round(data.mix_ratio * num_pairs))))
    if not drawn:
        raise InputError(f"every pair of {data.mix_file} shares a sentence with validation")
    others, lost = clean_pairs(found.select(drawn), **cleaning_options(data))
    logger.info("Mixed in: %s", f"{len(others):,} of {len(found):,} pairs of {data.mix_file}")
    return others, lost


@dataclass
class RunPairs:
    """The pairs of a run by split: text as it is scored, and the token ids of what is learnt from.

    `dropped_on_the_way` holds what reading and what encoding left out.
    """

    texts: dict[str, AnyDataset]
    dropped_on_the_way: dict[str, list[DroppedPairs]]
    encoded: dict[str, AnyDataset] = field(default_factory=dict)

    @classmethod
    def load(cls, data: DataArguments) -> RunPairs:
        """Read and clean; see `load_pairs`."""
        texts, dropped = load_pairs(data)
        if "validation" in dropped and "validation_split_percentage" in data.by_flag:
            raise InputError(
                "--validation_split_percentage has no effect: the pairs come with a validation "
                "split. Leave it out"
            )
        return cls(texts, {split: [lost] for split, lost in dropped.items()})

    def encode(self, tokenizer: PreTrainedTokenizerFast, data: DataArguments) -> None:
        """Encode what is trained and validated on.

        Raises:
            InputError: no training pair is left, or the tokenizer does not know the text.
        """
        for split in ("train", "validation"):
            self.encoded[split], lost = encode_pairs(
                self.texts[split], tokenizer, **encoding_options(data), training=split == "train"
            )
            if split in self.dropped_on_the_way:
                self.dropped_on_the_way[split].append(lost)
        is_table = isinstance(self.encoded["train"], Dataset)
        if is_table and not len(self.encoded["train"]):
            raise InputError(
                "no training pair is short enough: raise --max_source_length and "
                "--max_target_length, or add --truncate_long_pairs"
            )
        # Of a stream nothing may be read yet.
        check_known(self.encoded["train" if is_table else "validation"])

    @property
    def dropped(self) -> dict[str, DroppedPairs]:
        """What was left out so far, by split; of a stream it grows as pairs are read."""
        parts = self.dropped_on_the_way
        return {name: functools.reduce(operator.add, counts) for name, counts in parts.items()}

    def sizes(self) -> str:
        """How many pairs each split has, and how many were left out, in a line."""
        sizes = {
            name: f"{len(split):,}" if isinstance(split, Dataset) else "a stream"
            for name, split in (self.texts | self.encoded).items()
        }
        shown = ", ".join(f"{name} {sizes[name]}" for name in SPLITS if name in sizes)
        lost = sum(dropped.total - dropped.kept for dropped in self.dropped.values())
        so_far = " so far" if "a stream" in sizes.values() else ""
        return f"Pairs: {shown}; left out {lost:,}{so_far}"

    def dropped_table(self) -> str:
        """What was read, left out for which reason, and kept, a column for each split."""
        columns = {split: lost.as_dict() for split, lost in self.dropped.items()}
        lines = [" " * 16 + "".join(f"{split:>12}" for split in columns)]
        for name in dict.fromkeys(itertools.chain(*columns.values())):
            numbers = "".join(f"{column.get(name, 0):>12,}" for column in columns.values())
            lines.append(f"{name.replace('_', ' '):<16}{numbers}")
        return "\n".join(lines)


def check_known(encoded: Dataset) -> None:
    """Raise an `InputError` if two thirds or more of a side are `<unk>`, which nobody can learn."""
    for name, side in (("input_ids", "source"), ("labels", "target")):
        rows = encoded.select_columns([name])[:10_000][name]
        unknown = sum(row.count(UNK_ID) for row in rows)
        known = sum(len(row) - 1 for row in rows) - unknown  # without <eos>
        if unknown >= 2 * known:
            raise InputError(
                f"the tokenizer does not know {unknown / (unknown + known):.0%} of the {side}'s "
                "tokens: lower --min_frequency or take --tokenizer_kind bpe, or, with "
                "--model_name_or_path, add --extend_vocabulary"
            )


# --- fingerprints --------------------------------------------------------------------------------


def data_fingerprint(encoded: AnyDataset, spec: str | None) -> str:
    """SHA-256 of features in their order; of a stream, of samples of its files `spec`, if any."""
    if not isinstance(encoded, Dataset):
        return sample_digest(spec) if spec else "stream"
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    digests = {}
    for name in ("input_ids", "labels"):
        lengths, ids = hashlib.sha256(), hashlib.sha256()
        for batch in encoded.select_columns([name]).with_format("arrow").iter(100_000):
            lengths.update(pc.list_value_length(batch[name]).to_numpy().tobytes())
            ids.update(pc.list_flatten(batch[name]).to_numpy().tobytes())
        digests[name] = lengths.hexdigest() + ids.hexdigest()
    return hashlib.sha256("".join(digests.values()).encode()).hexdigest()


def sample_digest(spec: str) -> str:
    """SHA-256 of the sizes of the files and of pieces spread over them: quick for any size."""
    digest = hashlib.sha256()
    for path in pair_paths(spec):
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            for place in range(_PIECES):
                file.seek(max(0, size - _PIECE_BYTES) * place // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


# --- micro-batches -------------------------------------------------------------------------------


class TrainingBatches:
    """The micro-batches of this process, epoch after epoch, from any place in an epoch.

    `noise` changes some sources, each epoch others. Where the encoder `reads_padding`, nothing is
    padded for the GPU's sake.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        settings: Settings,
        encoded: Dataset,
        noise: SourceNoise | None = None,
        *,
        reads_padding: bool = False,
    ) -> None:
        train, sampling = settings.train, _sampling(accelerator, settings)
        is_gpu = accelerator.device.type == "cuda"
        # The tutorial's loss is divided by the padded length, and its encoder may read padding.
        pads = is_gpu and not (train.loss_reduction == "tutorial" or reads_padding)
        rooms = batching.Rooms(sampling["batch_size"], sampling["max_tokens"])
        table = batching.PairTable(encoded, fixed_lengths(settings.data), rooms if pads else None)
        self.sampler = batching.LengthBucketBatchSampler(*table.lengths, **sampling)
        self.loader = DataLoader(
            table,
            batch_size=None,  # the table makes whole batches
            sampler=self.sampler,
            collate_fn=noise,  # type: ignore[arg-type]  # it is given batches
            num_workers=train.dataloader_num_workers,
            pin_memory=is_gpu,
            # Its own generator: drawing the workers' seeds must not move the one of dropout.
            generator=torch.Generator().manual_seed(train.seed),
        )

    def batches_in(self, epoch: int) -> int:
        """How many micro-batches this process has in an epoch."""
        self.sampler.set_epoch(epoch)
        return len(self.sampler)

    def steps(self, state: TrainerState, per_step: int) -> Iterator[tuple[list[Batch], bool]]:
        """Yield the micro-batches of each optimizer step from `state` on, and if the epoch ends.

        The last step of an epoch may have fewer than `per_step`.
        """
        left = self.batches_in(state.epoch) - state.batches_done
        self.sampler.load_state_dict({"epoch": state.epoch, "batches_done": state.batches_done})
        group: list[Batch] = []
        for batch in made_ahead(self.loader) if self.loader.pin_memory else self.loader:
            group.append(batch)
            left -= 1
            if len(group) == per_step or left == 0:
                yield group, left == 0
                group = []

    def epochs_done(self, state: TrainerState) -> float:
        """Epochs, the present one as a fraction."""
        if state.batches_done == 0:
            return float(state.epoch)
        return round(state.epoch + state.batches_done / self.batches_in(state.epoch), 4)


def made_ahead(items: Iterable[Any], number: int = 4) -> Iterator[Any]:
    """The same items; a thread makes up to `number` ahead while a device uses the last."""
    source = iter(items)
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = deque(thread.submit(next, source, None) for _ in range(number))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, source, None))
            yield item


class StreamedBatches:
    """The micro-batches of this process from a stream, which is one epoch without end."""

    def __init__(
        self, accelerator: Accelerator, settings: Settings, encoded: Any, noise: SourceNoise | None
    ) -> None:
        if settings.train.dataloader_num_workers:  # they would read ahead of what is trained on
            raise InputError("--streaming needs --dataloader_num_workers 0")
        sampling, size = _sampling(accelerator, settings), settings.data.shuffle_buffer_size
        self.batcher = batching.StreamBatcher(encoded, buffer_size=size, **sampling)
        collator = batching.PairCollator(fixed_lengths(settings.data))
        self.collator = (lambda rows: noise(collator(rows))) if noise else collator

    def steps(self, state: TrainerState, per_step: int) -> Iterator[tuple[list[Batch], bool]]:
        """Yield the micro-batches of each optimizer step, endlessly; see `TrainingBatches`."""
        if state.stream is not None:
            self.batcher.load_state_dict(state.stream)
        features = iter(self.batcher)
        while True:
            group = [self.collator(next(features)) for _ in range(per_step)]
            state.stream = self.batcher.state_dict()
            yield group, False

    def epochs_done(self, state: TrainerState) -> float:
        """A stream's epochs are not counted."""
        return 0.0


def _sampling(accelerator: Accelerator, settings: Settings) -> dict[str, Any]:
    most = settings.data.max_tokens_per_batch
    return {
        "batch_size": None if most else settings.train.per_device_train_batch_size,
        "max_tokens": most,
        "seed": settings.train.seed,
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
        "bucket": settings.data.bucket_by_length,
    }


def fixed_lengths(data: DataArguments) -> tuple[int, int] | None:
    """Of source and target, if the arguments ask for them."""
    return (data.max_source_length, data.max_target_length) if data.pad_to_max_length else None
