"""Training and decoding on a CUDA device: the loop, kernels, graphs, MarianMT, the floor.

`python -m benchmarks.gpu_speed --output FILE [--seconds N] [--quick]`, or `benchmarks/run.py --only
gpu`. Every number is printed and written as soon as it is known, the most telling ones first; a
part that fails leaves a row that says why, and nothing begins once the time is over. Times are
wall-clock seconds between two waits for the device, and contenders take turns.

A training step is forward, backward, clipping and AdamW on a batch that lies on the device, and one
copy of loss and norm to the host, read one step late as a training does. It is held against the
loop of releases before the kernels, with cuDNN's encoder, and against MarianMT of as many
parameters.
Without CUDA the same code runs at toy sizes, which says nothing about speed; that is what the test
does.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationMixin, PreTrainedModel

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, gpu
from bahdanau_hf.cli.env import installed_version
from bahdanau_hf.modeling.modeling_bahdanau import FAST_WAYS, FastWay

from .contenders import make_marian
from .decoding_speed import fix_lengths, generation
from .gpu_recurrence import measure_ceilings, measure_recurrence
from .gpu_report import DTYPES, SECONDS, TOY, Report, Scale, Size, autocast
from .machine import command_line, describe_machine
from .results import Section, goals_text
from .stopwatch import Contender
from .workload import PAD, Batch, even_batch

Step = Callable[[dict[str, Tensor]], tuple[Tensor, ...]]

PROFILED = 3  # steps
LEARNING_RATE, MAX_NORM, SMOOTHING, DROPOUT = 1e-4, 1.0, 0.1, 0.3
OF_TRAINING, OF_EAGER, BUSY, OF_GREEDY = 2.0, 3.0, 0.8, 3.0  # the goals


class Way(NamedTuple):
    """How a training step is computed; MarianMT has one way alone."""

    implementation: str
    as_graph: bool = False


BEST, LOOP = "cuda, graph", "loop and cuDNN"
WAYS = {
    LOOP: Way(LOOP),
    BEST: Way("cuda", as_graph=True),
    "MarianMT": None,
    "cuda": Way("cuda"),
    "fast, graph": Way("fast", as_graph=True),
}


def measure(
    quick: bool, save: Callable[[Section], object] = lambda section: None, seconds: float = SECONDS
) -> Section:
    """Measure on the CUDA device; `save` gets the section after each number."""
    scale = Scale().quick if quick else Scale()
    return measure_on(torch.device("cuda"), scale, save, seconds)


def measure_on(
    device: torch.device,
    scale: Scale,
    save: Callable[[Section], object] = lambda section: None,
    seconds: float = SECONDS,
) -> Section:
    """Measure everything on a device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU, toy sizes"
    section = Section(
        "GPU",
        f"{name}. Wall-clock seconds; sizes are width, batch x source x target. "
        f"MarianMT has as many parameters. float32 products: {_float32_products()}.",
    )
    report = Report(section, device, scale, seconds, save)
    gc.collect()
    gc.freeze()  # races collect before each turn, and all that was imported takes long
    FAST_WAYS[LOOP] = FastWay(run_grus=grus_by_cudnn)
    try:
        _measure_all(report)
    finally:
        del FAST_WAYS[LOOP]
        gc.unfreeze()
    return section


def _measure_all(report: Report) -> None:
    scale = report.scale
    for dtype in DTYPES:
        report.attempt(f"training, {dtype}", _measure_training, report, scale.base, dtype)
        for batch_size, beams in scale.decoded[: None if dtype == "bfloat16" else 1]:
            mode = _mode(batch_size, beams, dtype)
            report.attempt(mode, _measure_decoding, report, batch_size, beams, dtype)
    rates = report.attempt("ceilings", measure_ceilings, report)
    for size in scale.recurrences:
        report.attempt(f"recurrence, {size}", measure_recurrence, report, size, rates)
    for size in scale.others:
        few = (LOOP, BEST, "MarianMT")
        report.attempt(f"training, {size}", _measure_training, report, size, "bfloat16", few, True)


def _float32_products() -> str:
    """How they are rounded; the names are newer than the oldest PyTorch that is supported."""
    places = {
        "matrices": torch.backends.cuda.matmul,
        "cuDNN's GRU": getattr(torch.backends.cudnn, "rnn", None),
    }
    return ", ".join(f"{k} {getattr(x, 'fp32_precision', 'unknown')}" for k, x in places.items())


def grus_by_cudnn(
    steps: Sequence[Tensor], layers: Sequence[nn.GRU], int8: bool = False
) -> list[Tensor]:
    """The encoder of releases before the kernels; autocast lets cuDNN compute in float16 alone."""
    outputs = []
    for x, layer in zip(steps, layers, strict=True):
        state, keep = x.new_zeros(1, x.shape[1], layer.hidden_size), torch.is_grad_enabled()
        weights: list[Tensor] = list(layer.all_weights[0])
        outputs.append(torch.gru(x, state, weights, True, 1, 0.0, keep, False, False)[0])
    return outputs


# --- the models ----------------------------------------------------------------------------------


def _ours(
    device: torch.device, size: Size, implementation: str
) -> BahdanauForConditionalGeneration:
    torch.manual_seed(0)
    config = BahdanauConfig(
        vocab_size=size.V,
        embedding_size=size.E,
        hidden_size=size.H,
        readout="deep",
        tie_word_embeddings=True,
        embedding_initializer_range=0.06,
        embedding_dropout=DROPOUT,
        readout_dropout=DROPOUT,
    )
    model = BahdanauForConditionalGeneration(config)
    model.generation_config.pad_token_id = PAD
    model.set_implementation(implementation)
    return model.to(device)


@cache
def _num_parameters(size: Size) -> int:
    with torch.device("meta"):
        return _ours(torch.device("meta"), size, "fast").num_parameters()


def _marian(device: torch.device, size: Size) -> PreTrainedModel:
    """MarianMT of as many parameters; its own dropout."""
    words = {"vocab_size": size.V, "decoder_vocab_size": size.V}
    return make_marian(_num_parameters(size), d_model=size.E, dropout=0.1, **words).to(device)


def _batch(device: torch.device, size: Size) -> Batch:
    return Batch(*(x.to(device) for x in even_batch(*size[:3], size.V, size.V)))


# --- training ------------------------------------------------------------------------------------


class _Trainer(NamedTuple):
    contender: Contender
    peak_mib: float
    busy_seconds: float | None  # of the device, in a step
    num_kernels: int | None


def _optimizer_step(
    report: Report, model: nn.Module, size: Size, dtype: str, as_graph: bool
) -> Callable[[], None]:
    """A training step as it was described at the top."""
    is_ours = isinstance(model, BahdanauForConditionalGeneration)
    options: dict[str, Any] = {}
    if is_ours:
        options = {"skip_logits": True, "label_smoothing": SMOOTHING}
        options["num_items_in_batch"] = size.B * size.T
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    batch = _batch(report.device, size)._asdict()
    model.train()

    def step(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        with autocast(report.device, dtype):
            loss = model(**batch, **options).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), norm

    take: Step = step
    if as_graph:
        from bahdanau_hf.gpu.step_graphs import StepGraphs

        take = StepGraphs(step, optimizer)

    return partial(_read_late, take, batch, [])


def _read_late(take: Step, batch: dict[str, Tensor], unread: list[tuple[Any, Tensor]]) -> None:
    """Take a step, then wait for loss and norm of the one before, as a training does."""
    numbers = torch.stack(take(batch))
    host = torch.empty_like(numbers, device="cpu", pin_memory=numbers.is_cuda)
    host.copy_(numbers, non_blocking=True)
    unread.append((torch.cuda.Event() if numbers.is_cuda else None, host))
    if numbers.is_cuda:
        unread[-1][0].record()
    if len(unread) > 1:
        event, host = unread.pop(0)
        if event is not None:
            event.synchronize()
        assert host.isfinite().all()


def _trainer(
    report: Report, size: Size, dtype: str, way: Way | None, is_profiled: bool
) -> _Trainer:
    before = report.memory()
    model = (
        _marian(report.device, size)
        if way is None
        else _ours(report.device, size, way.implementation)
    )
    run = _optimizer_step(report, model, size, dtype, way is not None and way.as_graph)
    peak = report.warm_up(run) - before
    busy, kernels = _busy(run) if is_profiled and report.device.type == "cuda" else (None, None)
    return _Trainer(Contender(run, float(size.B * size.T)), peak, busy, kernels)


def _busy(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds in which the device computes for one run, and in how many kernels.

    Kernels that run side by side count once. The profiler slows the host alone, so the time is to
    be compared with that of a run without it.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(PROFILED):
            run()
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in trace.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    )
    busy, reached = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / 1e6 / PROFILED, len(spans) // PROFILED


def _measure_training(
    report: Report, size: Size, dtype: str, names: Sequence[str] = tuple(WAYS), few: bool = False
) -> None:
    where = f"{dtype}, {size}"
    trainers = {
        name: trainer
        for name in names
        if (
            trainer := report.attempt(
                f"training, {name}, {where}", _trainer, report, size, dtype, WAYS[name], not few
            )
        )
    }
    timings = report.race({name: trainer.contender for name, trainer in trainers.items()}, few)
    seconds = {name: timing.amount / timing.rate for name, timing in timings.items()}
    for name, timing in timings.items():
        label, trainer = f"training, {name}, {where}", trainers[name]
        ms = [1e3 * f(timing.seconds) for f in (min, max)]
        report.add(label, 1e3 * seconds[name], "ms a step", *ms)
        report.add(label, timing.rate, "target tokens/s")
        report.add(label, trainer.peak_mib, "MiB at most")
        if trainer.busy_seconds is not None:
            share = trainer.busy_seconds / seconds[name]
            report.add(label, share, f"of the time busy, in {trainer.num_kernels} kernels")

    is_goal = dtype == "bfloat16" and not few
    for other, wanted in ((LOOP, OF_EAGER), ("MarianMT", OF_TRAINING)):
        report.compare(f"training, {where}", timings, other, wanted if is_goal else None, BEST)
    best, peer = trainers.get(BEST), trainers.get("MarianMT")
    if best and is_goal and best.busy_seconds is not None:
        share = best.busy_seconds / seconds[BEST]
        report.goal(f"training, {where}: share of the time busy", BUSY, share)
    if best and peer and is_goal and peer.peak_mib > 0:
        ratio = best.peak_mib / peer.peak_mib
        report.goal(f"training, {where}: memory / MarianMT's", 1, ratio, at_most=True)


# --- decoding ------------------------------------------------------------------------------------


def _mode(batch_size: int, beams: int, dtype: str) -> str:
    kind = "greedy" if beams == 1 else f"{beams} beams"
    return f"decoding, {kind}, batch {batch_size}, {dtype}"


def _translator(report: Report, name: str, batch_size: int, beams: int, dtype: str) -> Contender:
    size = report.scale.base
    model: Any = (
        _marian(report.device, size) if name == "MarianMT" else _ours(report.device, size, name)
    )
    fix_lengths(model)
    model.to(DTYPES[dtype]).eval()
    assert isinstance(model, GenerationMixin)
    batch = _batch(report.device, size._replace(B=batch_size))
    contender = generation(
        model, batch, batch_size, max_new_tokens=size.T, num_beams=beams, do_sample=False
    )
    report.warm_up(contender.run)
    return contender


def _measure_decoding(report: Report, batch_size: int, beams: int, dtype: str) -> None:
    mode = _mode(batch_size, beams, dtype)
    contenders = {
        name: contender
        for name in ("cuda", "fast", "MarianMT")
        if (
            contender := report.attempt(
                f"{mode}, {name}", _translator, report, name, batch_size, beams, dtype
            )
        )
    }
    timings = report.race(contenders)
    for name, timing in timings.items():
        report.add(f"{mode}, {name}", timing.rate, "sentences/s", *timing.spread)
    is_goal = dtype == "bfloat16" and (batch_size, beams) == report.scale.decoded[0]
    report.compare(mode, timings, "MarianMT", OF_GREEDY if is_goal else None)
    report.compare(mode, timings, "fast")


# --- by itself -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write a JSON that is whole at every moment."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_speed", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="begin nothing after these")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    args = parser.parse_args(arguments)
    machine = describe_machine() | {"command": command_line("benchmarks.gpu_speed")}
    machine["versions"] |= {"triton": installed_version("triton")}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        machine["device"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
        machine["versions"] |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}

    def save(section: Section) -> None:
        whole = {"machine": machine, "sections": {"gpu": section.as_dict()}}
        args.output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

    if torch.cuda.is_available():
        section = measure(args.quick, save, args.seconds)
    else:
        gpu.register()  # what a GPU would be given runs here too
        section = measure_on(torch.device("cpu"), TOY, save, args.seconds)
    print(goals_text(section.goals))


if __name__ == "__main__":
    main()
