"""Sends millions of generated pairs through the whole data path and watches the memory.

    python -m tests.stress.stream --pairs 10000000
    python -m tests.stress.stream --tsv_bytes 5000000000 --folder /tmp/large

The first streams: reading, cleaning, encoding, shuffling in a bounded buffer, batching, padding.
Every pair carries its number, so that the batches themselves tell which pairs were given, how
often, and to which process. The second writes a TSV file of that size, reads it as a run without
`--streaming` does (memory-mapped by `datasets`), goes once through its batches and removes it.
Ends with status 1 if a pair was lost or came twice, or if the memory grew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import Accelerator
from datasets import IterableDataset, disable_progress_bars
from transformers import PreTrainedTokenizerFast

from bahdanau_hf.data.batching import PairCollator, StreamBatcher
from bahdanau_hf.data.preprocessing import clean_pairs, encode_pairs
from bahdanau_hf.data.sources import translation_features
from bahdanau_hf.data.vocabulary import train_tokenizer
from bahdanau_hf.training.arguments import DataArguments, ModelArguments, Settings, TrainArguments
from bahdanau_hf.training.pairs import (
    TrainingBatches,
    cleaning_options,
    data_fingerprint,
    encoding_options,
    load_pairs,
)

LANGS = ("en", "de")
BASE = 1000
BATCH_SIZE = 64
MOST_GROWTH = 1.1
MOST_OWN_MB = 2000
FILLERS = ["the", "of", "and", "to", "in", "is", "it", "was", "for", "on", "are", "as", "with"]
COMPOUNDS = ["".join(2 * (FILLERS[i:] + FILLERS[:i]))[:50] for i in range(len(FILLERS))]


def pair(number: int, is_long: bool = False) -> tuple[str, str]:
    """The pair of a number, which three words spell; a few words besides, or 2,000 bytes."""
    digits = (number // BASE**2, number // BASE % BASE, number % BASE)
    name = " ".join(f"{kind}{digit}" for kind, digit in zip("xyz", digits, strict=True))
    words, count = (COMPOUNDS, 20) if is_long else (FILLERS, number % 9)
    rest = " ".join(words[(number + i) % len(words)] for i in range(count))
    return f"{name} {rest}", f"{rest} {name}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows every word of the pairs."""
    texts = [f"{kind}{digit}" for kind in "xyz" for digit in range(BASE)]
    texts += FILLERS + COMPOUNDS
    return train_tokenizer(
        texts, texts, kind="word-char", min_frequency=1, source_lang=LANGS[0], target_lang=LANGS[1]
    )


class Numbers:
    """Reads the numbers of the pairs off a batch, and counts how often each came."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, total: int) -> None:
        self.values = np.zeros(len(tokenizer), dtype=np.int64)
        for token, place in tokenizer.get_vocab().items():
            if token[0] in "xyz" and token[1:].isdigit():
                self.values[place] = int(token[1:])
        self.times_seen = np.zeros(total, dtype=np.uint8)

    def read(self, batch: dict[str, Any]) -> np.ndarray:
        """The numbers of a batch, in its order."""
        digits = self.values[batch["input_ids"][:, :3].numpy()]
        return digits @ np.array([BASE**2, BASE, 1])

    def count(self, batch: dict[str, Any]) -> int:
        """Note the pairs of a batch; how many they are."""
        numbers = self.read(batch)
        np.add.at(self.times_seen, numbers, 1)
        return len(numbers)


def generated(total: int) -> Iterator[dict[str, Any]]:
    """The pairs as rows."""
    for number in range(total):
        yield {"translation": dict(zip(LANGS, pair(number), strict=True))}


def streamed_batches(
    total: int, tokenizer: PreTrainedTokenizerFast, rank: int = 0, world_size: int = 1
) -> StreamBatcher:
    """The data path of a streaming run up to lists of features."""
    arguments = DataArguments(source_lang=LANGS[0], target_lang=LANGS[1], streaming=True)
    rows = IterableDataset.from_generator(
        generated, gen_kwargs={"total": total}, features=translation_features(*LANGS)
    )
    cleaned, _ = clean_pairs(rows, **cleaning_options(arguments))
    encoded, _ = encode_pairs(cleaned, tokenizer, **encoding_options(arguments))
    return StreamBatcher(
        encoded,
        buffer_size=arguments.shuffle_buffer_size,
        batch_size=BATCH_SIZE,
        seed=1,
        rank=rank,
        world_size=world_size,
    )


def memory() -> dict[str, int]:
    """MB of this process: the peak of all that is resident, and what is its own at present."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return {"peak": int(values["VmHWM"][0]) // 1024, "own": int(values["RssAnon"][0]) // 1024}


def tell(count: int, began: float) -> dict[str, int]:
    """Print how far it is."""
    now = memory()
    print(
        f"{count:>12,} pairs   peak RSS {now['peak']:,} MB   own {now['own']:,} MB   "
        f"CPU {time.process_time() - began:,.0f} s",
        flush=True,
    )
    return now


def stream(total: int, tokenizer: PreTrainedTokenizerFast) -> bool:
    """All pairs once through one process; True if the memory stayed and every pair came once."""
    numbers, collate = Numbers(tokenizer, total), PairCollator()
    marks, peaks = [total // 10, total // 2, total], []
    began, count = time.process_time(), 0
    for features in streamed_batches(total, tokenizer):
        count += numbers.count(collate(features))
        if count >= marks[len(peaks)]:
            peaks.append(tell(count, began)["peak"])
        if count >= total:
            break
    once = int((numbers.times_seen == 1).sum())
    print(f"{once:,} of {total:,} pairs came exactly once")
    return once == total and peaks[-1] <= MOST_GROWTH * peaks[0]


def shards_and_resume(total: int, world_size: int, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Each process's share, and a second start in the middle of it."""
    collate, shares, is_same = PairCollator(), [], True
    per_rank = total // (BATCH_SIZE * world_size) + total // 10_000 + 1
    for rank in range(world_size):
        numbers = Numbers(tokenizer, total)
        batcher = streamed_batches(total, tokenizer, rank, world_size)
        seen, state = [], {}
        for i, features in enumerate(batcher):
            if batcher.state_dict()["window"] * batcher.buffer_size >= total:
                break
            seen.append(numbers.read(collate(features)))
            if i == per_rank // 2:
                state, place = batcher.state_dict(), len(seen)
        again = streamed_batches(total, tokenizer, rank, world_size)
        again.load_state_dict(state)
        rest = [numbers.read(collate(f)) for f in islice(again, len(seen) - place)]
        is_same &= all(map(np.array_equal, rest, seen[place:])) and len(rest) == len(seen) - place
        print(
            f"process {rank} of {world_size}: {sum(map(len, seen)):,} pairs; resumed at batch "
            f"{place:,}, the {len(rest):,} batches after it are {'the same' if is_same else 'NOT'}"
        )
        shares.append(np.concatenate(seen))
    whole = np.concatenate(shares)
    overlap = len(whole) - len(np.unique(whole))
    print(f"{len(np.unique(whole)):,} of {total:,} pairs given out, {overlap} to two processes")
    return is_same and overlap == 0 and len(whole) == total


def mapped(size: int, folder: Path, tokenizer: PreTrainedTokenizerFast) -> bool:
    """A TSV file of `size` bytes, memory-mapped, once through its batches."""
    began, total = time.process_time(), 0
    path, held_out = folder / "pairs.tsv", folder / "validation.tsv"
    held_out.write_text("en\tde\nthe of\tof the\n", encoding="utf-8")
    with path.open("w", encoding="utf-8") as file:
        written = file.write("en\tde\n")
        while written < size:
            lines = ["\t".join(pair(total + i, is_long=True)) + "\n" for i in range(1000)]
            written += file.write("".join(lines))
            total += len(lines)
    print(f"{path.stat().st_size:,} bytes, {total:,} pairs", flush=True)
    tell(0, began)
    arguments = DataArguments(
        source_lang=LANGS[0],
        target_lang=LANGS[1],
        train_file=str(path),
        validation_file=str(held_out),
    )
    texts, _ = load_pairs(arguments)
    tell(len(texts["train"]), began)
    encoded, _ = encode_pairs(texts["train"], tokenizer, **encoding_options(arguments))
    tell(len(encoded), began)
    print("fingerprint", data_fingerprint(encoded, None)[:16])
    tell(len(encoded), began)
    numbers, count = Numbers(tokenizer, total), 0
    train_args = TrainArguments(per_device_train_batch_size=BATCH_SIZE)
    batches = TrainingBatches(
        Accelerator(cpu=True), Settings(ModelArguments(), arguments, train_args), encoded
    )
    for batch in batches.loader:
        count += numbers.count(batch)
    now = tell(count, began)
    once = int((numbers.times_seen == 1).sum())
    print(f"{once:,} of {total:,} pairs came exactly once")
    # What is in memory for each pair are its place and its lengths, not its text.
    return once == total and now["own"] <= MOST_OWN_MB


def main() -> int:
    """Run what the arguments ask for; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=0, help="pairs to stream")
    parser.add_argument("--shard_pairs", type=int, default=200_000, help="pairs to share out")
    parser.add_argument("--processes", type=int, default=3, help="processes to share them out to")
    parser.add_argument("--tsv_bytes", type=int, default=0, help="size of a file to memory-map")
    parser.add_argument("--folder", type=Path, help="where it goes, and as much again")
    arguments = parser.parse_args()
    disable_progress_bars()
    tokenizer, kept = make_tokenizer(), []
    if arguments.pairs:
        kept.append(stream(arguments.pairs, tokenizer))
        kept.append(shards_and_resume(arguments.shard_pairs, arguments.processes, tokenizer))
    if arguments.tsv_bytes:
        # Its cache would outlive the file.
        folder = Path(tempfile.mkdtemp(prefix="bahdanau-", dir=arguments.folder))
        datasets.config.HF_DATASETS_CACHE = folder
        try:
            kept.append(mapped(arguments.tsv_bytes, folder, tokenizer))
        finally:
            shutil.rmtree(folder)
    print("kept" if all(kept) else "BROKEN")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
