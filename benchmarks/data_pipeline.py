"""From text to batches: it must never be what training waits for."""

from __future__ import annotations

from torch.utils.data import DataLoader

from bahdanau_hf.data.batching import LengthBucketBatchSampler, PairTable
from bahdanau_hf.data.preprocessing import encode_pairs
from bahdanau_hf.training.arguments import DataArguments
from bahdanau_hf.training.pairs import encoding_options, load_pairs

from .bundled import load_bundle
from .contenders import make_ours, make_plain
from .results import Goal, Section
from .stopwatch import Contender, race
from .training_speed import Training
from .workload import BATCH_SIZE, bucketed_batches


def measure(quick: bool) -> Section:
    """Time each part of the pipeline, and training itself."""
    bundle, data = load_bundle(), DataArguments()
    encoded, _ = encode_pairs(bundle.train, bundle.tokenizer, **encoding_options(data))
    table = PairTable(encoded)
    tokens = int(table.lengths[1].sum())
    sampler = LengthBucketBatchSampler(*table.lengths, batch_size=BATCH_SIZE, seed=0)

    def batch() -> None:
        for _ in DataLoader(table, batch_size=None, sampler=sampler):
            pass

    training = Training(make_ours(make_plain()), bucketed_batches(1), bf16=True).contender()
    once, each_epoch = "reading, cleaning and encoding, once", "batches, each epoch"
    contenders = {
        "reading and cleaning": Contender(lambda: load_pairs(data), tokens),
        "encoding": Contender(
            lambda: encode_pairs(bundle.train, bundle.tokenizer, **encoding_options(data)), tokens
        ),
        each_epoch: Contender(batch, tokens),
        "training, bfloat16": training,
    }
    timings = race(contenders, 2 if quick else 5)
    section = Section("Data pipeline", f"{len(bundle.train):,} bundled pairs, batches of 64.")
    section.add_race(timings, "target tokens/CPU s")
    ratio = timings[each_epoch].times_as_fast_as(timings["training, bfloat16"])
    section.goals.append(Goal(f"data: {each_epoch} / training, bfloat16", 20, ratio))
    seconds = sum(1 / timings[name].rate for name in ("reading and cleaning", "encoding"))
    ratio = 1 / (seconds * timings["training, bfloat16"].rate)
    section.goals.append(Goal(f"data: {once} / training, bfloat16", 2, ratio))
    return section
