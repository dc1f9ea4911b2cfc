"""Against what people put a small model into to translate on a processor: CTranslate2."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.modeling.matmul_bahdanau import fixed_weights
from bahdanau_hf.modeling.processor_bahdanau import processor

from . import ctranslate2_peer, older_processor
from .contenders import EMBEDDING_SIZE, HIDDEN_SIZE, make_marian, make_ours, make_plain
from .decoding_speed import BEAMS, fix_lengths, generation
from .memorised import learn_by_heart, like_batch
from .results import Goal, Section
from .stopwatch import Contender, race
from .workload import BATCH_SIZE, MEAN_TARGET, Batch

FEW = 16  # sentences that are translated one by one
# How many times as fast as CTranslate2 ours should be, by mode, size of batch and number format.
GOALS = {
    ("greedy", BATCH_SIZE): {"float32": 1.3, "int8": 1.5},
    (f"{BEAMS} beams", BATCH_SIZE): {"float32": 1.5, "int8": 1.5},
    ("greedy", 1): {"float32": 1.0, "int8": 1.0},
    (f"{BEAMS} beams", 1): {"float32": 1.0, "int8": 1.0},
}
TRAINED = "trained.safetensors"


def measure(quick: bool) -> Section:
    """Race here and as on an older processor."""
    return older_processor.measure_on_both("engines", quick, _save_trained)


def measure_here(quick: bool, folder: Path) -> Section:
    """Race on this processor.

    Args:
        quick: greedy search alone, fewer rounds.
        folder: has ours with trained weights; CTranslate2's model is written there.
    """
    section = Section(
        "Engines",
        f"Width {EMBEDDING_SIZE}/{HIDDEN_SIZE}, linear readout, random weights, {MEAN_TARGET} "
        "words each, CTranslate2 with a transformer of as many parameters, one thread; and ours "
        'with overfitted weights ("trained"). Ours compares its weights once per round '
        "(`fixed_weights`), as the command `translate` does.",
    )
    flat = make_ours(make_plain()).eval()
    fix_lengths(flat)
    trained = make_ours(make_plain()).eval()
    trained.load_state_dict(load_file(folder / TRAINED))
    peers = _peers(flat.num_parameters(), folder, section)
    for mode, beams in (("greedy", 1), (f"{BEAMS} beams", BEAMS))[: 1 if quick else 2]:
        for size in (BATCH_SIZE, 1):
            batch = like_batch()
            if size == 1:
                batch = Batch(*(x[:: BATCH_SIZE // FEW] for x in batch))
            case = f"{mode}, batch {size}"
            contenders = _ours(flat, f"ours, {case}", batch, size, beams, MEAN_TARGET)
            for name, peer in peers.items():
                contenders[f"CTranslate2, {case}, {name}"] = ctranslate2_peer.contender(
                    peer, batch, size, beams, MEAN_TARGET
                )
            if size == 1:
                contenders |= _one_graph(flat, f"ours, ONNX, one graph, {case}", batch, beams)
            words = batch.labels.shape[1] + 2
            contenders |= _ours(trained, f"ours, trained, {case}", batch, size, beams, words)
            timings = race(contenders, 2 if quick else 5, 0.1)
            section.add_race(timings, "sentences/CPU s")
            for name, wanted in GOALS[mode, size].items():
                other = f"CTranslate2, {case}, {name}"
                for own in (f"ours, {case}, {name}", f"ours, ONNX, one graph, {case}, {name}"):
                    if own in timings and other in timings:
                        ratio = timings[own].times_as_fast_as(timings[other])
                        section.goals.append(Goal(f"engines: {own} / {other}", wanted, ratio))
    return section


def _save_trained(folder: Path) -> None:
    save_file(learn_by_heart().ours.state_dict(), folder / TRAINED)


def _peers(num_parameters: int, folder: Path, section: Section) -> dict[str, Any]:
    """CTranslate2's translators by number format; none, and a note, where it is not installed."""
    if not ctranslate2_peer.is_installed():
        section.notes += " CTranslate2 is not installed here."
        return {}
    model = folder / "ctranslate2"
    ctranslate2_peer.convert(make_marian(num_parameters).eval(), model)
    return {name: ctranslate2_peer.load(model, name) for name in ctranslate2_peer.number_formats()}


def _ours(
    model: BahdanauForConditionalGeneration,
    name: str,
    batch: Batch,
    size: int,
    beams: int,
    words: int,
) -> dict[str, Contender]:
    """A contender for each number format."""
    models = {"float32": model, "bfloat16": copy.deepcopy(model).to(torch.bfloat16)}
    if processor().int8:
        models["int8"] = copy.deepcopy(model).use_int8()
    if not processor().bfloat16:
        del models["bfloat16"]
    return {
        f"{name}, {number_format}": _promising(
            generation(one, batch, size, num_beams=beams, max_new_tokens=words)
        )
        for number_format, one in models.items()
    }


def _promising(contender: Contender) -> Contender:
    """The same with weights that stay, as `bahdanau-hf translate` promises for its whole input."""

    def run() -> None:
        with fixed_weights():
            contender.run()

    return contender._replace(run=run)


def _one_graph(
    model: BahdanauForConditionalGeneration, name: str, batch: Batch, beams: int
) -> dict[str, Contender]:
    """The search as one ONNX graph that holds its own loop, a sentence a call."""
    if find_spec("onnxruntime") is None:
        return {}
    from bahdanau_hf.export.onnx_export import search_graph
    from bahdanau_hf.export.onnx_search import WholeSearch

    lengths = batch.source_lengths.tolist()
    inputs = [
        (batch.input_ids[i : i + 1, :n].numpy(), batch.attention_mask[i : i + 1, :n].numpy())
        for i, n in enumerate(lengths)
    ]
    contenders = {}
    for dtype in ("float32", "int8"):
        graph = search_graph(model, dtype, beams).SerializeToString()
        search = WholeSearch(graph, num_threads=1)

        def run(search: WholeSearch = search) -> None:
            for ids, mask in inputs:
                search(ids, mask, MEAN_TARGET)

        contenders[f"{name}, {dtype}"] = Contender(run, len(inputs))
    return contenders
