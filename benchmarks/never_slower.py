"""Is any fast way slower than the library's own loop with the same weights, anywhere?

All number formats, batches of 1, 8 and 64, greedy and with beams, both readouts, with trained
weights and with random ones (whose words are all about equally likely, which helps no shortcut);
and training. On the processor as it is, and as an older one.
"""

from __future__ import annotations

import copy
import functools
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.modeling.processor_bahdanau import processor

from . import older_processor
from .contenders import EMBEDDING_SIZE, HIDDEN_SIZE, make_ours, make_plain
from .decoding_speed import BEAMS, fix_lengths, generation
from .lasting_memory import base_batch, base_config
from .memorised import learn_by_heart, like_batch, memorise
from .results import Section, Table
from .stopwatch import Contender, Timing, race
from .training_speed import Training
from .workload import MEAN_TARGET, SOURCE_SIZE, TARGET_SIZE, Batch

READOUTS = ("linear", "deep")
WEIGHTS = ("trained", "flat")
SENTENCES = {1: 2, 8: 8, 64: 64}  # how many are translated at each size of batch
CLOSE = 0.1  # a ratio so near to 1 is measured again, longer
TITLE = "fast / the library's loop"


def measure(quick: bool) -> Section:
    """Measure here and as on an older processor."""
    return older_processor.measure_on_both("never_slower", quick, _save_trained)


def measure_here(quick: bool, folder: Path) -> Section:
    """Measure on this processor.

    Args:
        quick: less of everything.
        folder: has the trained weights.
    """
    section = Section(
        "Never slower",
        "Speed relative to `generate`'s own loop over the equations with the same weights "
        f'(`set_implementation("reference")`); 8 bits relative to that loop in float32. Width '
        f"{EMBEDDING_SIZE}/{HIDDEN_SIZE}, {TARGET_SIZE} target words; deep: readout, tied output "
        f"layer and bidirectional encoder of the recipe base; flat: random weights, "
        f"{MEAN_TARGET} words each; 0: it fails.",
    )
    columns = [f"{readout}, {weights}" for readout in READOUTS for weights in WEIGHTS]
    rows: dict[str, list[float | None]] = {}
    batch = like_batch()
    for readout in READOUTS:
        for weights in WEIGHTS:
            models = _models(readout, weights, folder)
            words = MEAN_TARGET if weights == "flat" else batch.labels.shape[1] + 2
            formats = [name for name in models if not name.startswith("loop")]
            for mode, beams in (("greedy", 1), (f"{BEAMS} beams", BEAMS)):
                for size in (8,) if quick else SENTENCES:
                    ratios = _ratios(
                        models, batch, size, quick, num_beams=beams, max_new_tokens=words
                    )
                    for name in formats:
                        row = f"{mode}, batch {size}, {name}"
                        rows.setdefault(row, []).append(ratios[name])
    table = Table(TITLE, 1, columns, rows)
    training = Table("training, recipe base, fast / the equations", 1, *_training(quick))
    section.tables = [table, training]
    section.goals = table.goals() + training.goals()
    return section


def make_deep() -> BahdanauForConditionalGeneration:
    """The model of configs/base.yaml in the width and with the vocabulary of the others."""
    torch.manual_seed(0)
    dropouts = dict.fromkeys(("embedding_dropout", "readout_dropout"), 0.0)
    sizes = {"vocab_size": TARGET_SIZE, "encoder_vocab_size": SOURCE_SIZE}
    config: BahdanauConfig = base_config(hidden_size=HIDDEN_SIZE, **sizes, **dropouts)
    return BahdanauForConditionalGeneration(config)


def _make(readout: str) -> BahdanauForConditionalGeneration:
    return make_ours(make_plain()) if readout == "linear" else make_deep()


def _save_trained(folder: Path) -> None:
    """Write the weights of models that know the translations by heart: they are learnt once."""
    deep = make_deep()
    memorise(deep, like_batch())
    for readout, model in zip(READOUTS, (learn_by_heart().ours, deep), strict=True):
        save_model(model, folder / f"{readout}.safetensors")


def _models(
    readout: str, weights: str, folder: Path
) -> dict[str, BahdanauForConditionalGeneration]:
    """By number format, the library's loop first."""
    model = _make(readout).eval()
    if weights == "trained":
        load_model(model, folder / f"{readout}.safetensors")
    else:
        fix_lengths(model)
    reference = copy.deepcopy(model)
    reference.set_implementation("reference")
    models = {
        "loop, float32": reference,
        "loop, bfloat16": copy.deepcopy(reference).to(torch.bfloat16),
        "float32": model,
        "bfloat16": copy.deepcopy(model).to(torch.bfloat16),
    }
    if processor().int8:
        models["int8"] = copy.deepcopy(model).use_int8()
    return models


def _ratios(
    models: dict[str, BahdanauForConditionalGeneration],
    batch: Batch,
    size: int,
    quick: bool,
    **options: Any,
) -> dict[str, float]:
    """How many times as fast each number format is as its loop."""
    count = SENTENCES[size]
    some = Batch(*(x[:: len(x) // count] for x in batch))
    return _race({name: generation(m, some, size, **options) for name, m in models.items()}, quick)


def _race(contenders: dict[str, Contender], quick: bool) -> dict[str, float]:
    """Ratios by number format; 0 for what fails here, which is printed."""
    failed = {name for name, contender in contenders.items() if not _runs(name, contender)}
    failed |= {name for name in contenders if _loop_of(name) in failed}
    contenders = {name: contenders[name] for name in contenders if name not in failed}

    def ratios(timings: dict[str, Timing]) -> dict[str, float]:
        return {
            name: timing.times_as_fast_as(timings[_loop_of(name)])
            for name, timing in timings.items()
            if not name.startswith("loop")
        }

    found = ratios(race(contenders, 1 if quick else 2, 0.02))
    close = [name for name, ratio in found.items() if abs(ratio - 1) < CLOSE]
    if close and not quick:
        names = [*close, *map(_loop_of, close)]
        found |= ratios(race({name: contenders[name] for name in names}, 7, 0.05))
    return found | {name: 0.0 for name in failed if not name.startswith("loop")}


def _runs(name: str, contender: Contender) -> bool:
    try:
        contender.run()
    except RuntimeError as error:
        _tell(f"never slower: {name} fails: {str(error).splitlines()[0]}")
        return False
    return True


@functools.cache
def _tell(message: str) -> None:
    """Print it, once."""
    print(message, file=sys.stderr)


def _loop_of(name: str) -> str:
    return "loop, bfloat16" if name == "bfloat16" else "loop, float32"


def _training(quick: bool) -> tuple[list[str], dict[str, list[float | None]]]:
    """Columns and rows: a step of training on one batch."""
    batch = base_batch(300 if quick else None)
    contenders = {}
    for prefix, implementation in (("loop, ", "reference"), ("", None)):
        for number_format in ("float32", "bfloat16"):
            model = BahdanauForConditionalGeneration(base_config())
            model.set_implementation(implementation)
            training = Training(model, [batch], bf16=number_format == "bfloat16")
            contenders[prefix + number_format] = training.contender()
    ratios = _race(contenders, quick)
    columns = ["float32", "bfloat16"]
    return columns, {"a batch": [ratios[name] for name in columns]}
