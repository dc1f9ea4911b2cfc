"""Training and decoding on a CUDA device: the loop, kernels, graphs, MarianMT, the floor.

`python -m benchmarks.gpu_speed --output FILE [--seconds N] [--quick]`, or `benchmarks/run.py --only
gpu`. Every number is printed and written as soon as it is known, the most telling ones first; a
part that fails leaves a row that says why, and nothing begins once the time is over. Times are
wall-clock seconds between two waits for the device, and contenders take turns.

A training step is forward, backward, clipping and AdamW on a batch that lies on the device, and one
copy of loss and norm to the host, as the trainer reads them. It is held against the loop of
releases before the kernels, with cuDNN's encoder, and against MarianMT of as many parameters. The
floor of a recurrence is what no arrangement of it can beat: its multiplications at the rate that
the device shows on large ones, or its bytes (the weights, and the keys and gates of the batch, once
a step) at the rate of a large copy, whichever takes longer; backward counts twice. Without CUDA the
same code runs at toy sizes, which says nothing about speed; that is what the test does.

Dimensions: B batch, S source, T target, E embedding, H hidden, V vocabulary.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationMixin, PreTrainedModel

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, gpu
from bahdanau_hf.modeling.modeling_bahdanau import FAST_WAYS, FastWay
from bahdanau_hf.modeling.recurrence_bahdanau import Inputs

from .contenders import make_marian
from .decoding_speed import fix_lengths, generation
from .machine import describe_machine
from .results import Goal, Row, Section, goals_text
from .stopwatch import Contender, Timing, race
from .workload import PAD, Batch, even_batch

Result = TypeVar("Result")
Step = Callable[[dict[str, Tensor]], tuple[Tensor, ...]]

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SECONDS = 175.0  # for everything
WARM_UP = 4  # runs: a graph is captured in the second, and libraries set themselves up
PROFILED = 3  # steps
LEARNING_RATE, MAX_NORM, SMOOTHING, DROPOUT = 1e-4, 1.0, 0.1, 0.3
OF_TRAINING, OF_EAGER, BUSY, OF_GREEDY = 2.0, 3.0, 0.8, 3.0  # the goals


class Size(NamedTuple):
    """A model and its batch."""

    B: int
    S: int
    T: int
    E: int
    H: int
    V: int = 8000

    def __str__(self) -> str:
        return f"width {self.H}, {self.B} x {self.S} x {self.T}"


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
BASE = Size(125, 12, 12, 256, 384)  # the recipe `base`


@dataclass(frozen=True)
class Scale:
    """How large the models and batches are, and how long is measured.

    Attributes:
        base: of the training step that counts.
        decoded: (batch, beams) of decoding with that model.
        recurrences: of the recurrence alone.
        others: further training steps, by few ways.
        side: of the product that shows the device's rate.
        rounds: of each race.
        least_seconds: of each round.
    """

    base: Size = BASE
    decoded: Sequence[tuple[int, int]] = ((256, 1), (64, 1), (64, 5), (1, 1))
    recurrences: Sequence[Size] = (
        BASE,
        *(BASE._replace(B=B) for B in (64, 256, 512)),
        *(Size(64, 50, 50, 256, H) for H in (512, 1024)),
    )
    others: Sequence[Size] = tuple(
        Size(B, 25, 25, E, H) for E, H in ((256, 512), (512, 1024)) for B in (64, 256, 512)
    )
    side: int = 8192
    rounds: int = 5
    least_seconds: float = 0.2

    @property
    def quick(self) -> Scale:
        """With few rounds."""
        return replace(self, rounds=2, least_seconds=0.08)


TINY = Size(2, 3, 3, 8, 16, 50)
TOY = Scale(TINY, ((2, 1), (2, 2)), (TINY,), (TINY._replace(B=3),), 64, 1, 0.0)


@dataclass
class Report:
    """Takes numbers as they come; `seconds` are those left when it is made."""

    section: Section
    device: torch.device
    scale: Scale
    seconds: float = SECONDS
    save: Callable[[Section], object] = lambda section: None
    began: float = field(default_factory=time.monotonic)

    def add(self, name: str, value: float | None, unit: str, *spread: float) -> None:
        """Print a number and keep it."""
        self.section.rows.append(Row(name, value, unit, *spread))
        shown = "" if value is None else f"{value:.4g}"
        print(f"[{time.monotonic() - self.began:3.0f} s] {name}: {shown} {unit}", flush=True)
        self.save(self.section)

    def goal(self, name: str, wanted: float, measured: float, at_most: bool = False) -> None:
        """Print a ratio to reach and keep it."""
        goal = Goal(name, wanted, measured, at_most)
        self.section.goals.append(goal)
        print(f"        {name}: {measured:.2f}, wanted {wanted:g}", flush=True)
        self.save(self.section)

    def attempt(self, name: str, part: Callable[..., Result], *given: Any) -> Result | None:
        """Do a part, if there is time; a failure is a row."""
        if time.monotonic() - self.began > self.seconds:
            self.add(name, None, "left out: the time is over")
            return None
        try:
            return part(*given)
        except Exception as error:  # whatever it is, the other numbers count
            self.add(name, None, f"failed: {type(error).__name__}: {str(error).strip()[:300]}")
            return None
        finally:
            _tidy()

    def race(self, contenders: dict[str, Contender], few: bool = False) -> dict[str, Timing]:
        """Time contenders in turns; `few` rounds where a number is told and not compared."""
        rounds = min(self.scale.rounds, 2) if few else self.scale.rounds
        return race(contenders, rounds, self.scale.least_seconds, self.clock)

    def compare(
        self,
        where: str,
        timings: dict[str, Timing],
        other: str,
        wanted: float | None = None,
        name: str = "cuda",
    ) -> None:
        """Tell how many times as fast as another one is, if both were timed."""
        if {name, other} <= timings.keys():
            ratio = timings[name].times_as_fast_as(timings[other])
            if wanted is not None:
                self.goal(f"{where}: {name} / {other}", wanted, ratio)
            else:
                self.add(f"{where}: {name} / {other}", ratio, "times as fast")

    def clock(self) -> float:
        """The time, after the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def warm_up(self, run: Callable[[], object]) -> float:
        """Run a few times; MiB of the device at most meanwhile."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(WARM_UP):
            run()
        self.clock()
        return self.memory(torch.cuda.max_memory_allocated)

    def memory(self, what: Callable[[], int] = torch.cuda.memory_allocated) -> float:
        """MiB of the device."""
        return what() / 2**20 if self.device.type == "cuda" else 0.0


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
    rates = report.attempt("ceilings", _measure_ceilings, report)
    for size in scale.recurrences:
        report.attempt(f"recurrence, {size}", _measure_recurrence, report, size, rates)
    for size in scale.others:
        few = (LOOP, BEST, "MarianMT")
        report.attempt(f"training, {size}", _measure_training, report, size, "bfloat16", few, True)


def _tidy() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[dtype])


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
        with _autocast(report.device, dtype):
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

    def run() -> None:
        torch.stack(take(batch)).tolist()

    return run


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


# --- the recurrence alone, and what it is held against -------------------------------------------


def _measure_ceilings(report: Report) -> dict[str, float]:
    """Seconds of one multiplication in a large product, and of one byte read in a large copy."""
    side, device, is_cuda = report.scale.side, report.device, report.device.type == "cuda"
    x = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    y, source, small = torch.empty_like(x), x.repeat(4, 1), torch.zeros(64, device=device)
    copy = torch.empty_like(source)
    bytes_moved = 2.0 * source.numel() * source.element_size()  # read and written

    def launches() -> None:
        for _ in range(200):
            small.add_(1.0)

    contenders = {
        "multiplication": Contender(lambda: torch.mm(x, x, out=y), float(side**3)),
        "byte": Contender(lambda: copy.copy_(source), bytes_moved),
        "launch": Contender(launches, 200.0),
    }
    if is_cuda:
        contenders["node of a graph"] = Contender(captured(launches), 200.0)
    for contender in contenders.values():
        report.warm_up(contender.run)
    seconds = {k: 1 / timing.rate for k, timing in report.race(contenders, few=True).items()}
    report.add("large product, bfloat16", 2e-12 / seconds["multiplication"], "TFLOP/s")
    report.add("large copy", 1e-12 / seconds["byte"], "TB/s, read and written")
    for name in ("launch", "node of a graph"):
        if name in seconds:
            report.add(name, 1e6 * seconds[name], "us")
    return seconds


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """The same as a CUDA graph, its results left where they were."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _recurrence(report: Report, size: Size, implementation: str) -> tuple[Callable, Callable]:
    """The decoder's steps over random inputs, forward, and forward and backward, in bfloat16."""
    recur, (B, S, T, _, H, _) = FAST_WAYS[implementation].recur, size
    torch.manual_seed(0)
    normal = partial(torch.randn, device=report.device)

    def narrow(*shape: int) -> Tensor:
        return (0.3 * normal(*shape)).bfloat16().requires_grad_()

    def weight(rows: int) -> Tensor:
        return (normal(rows, H) / H**0.5).requires_grad_()

    given = Inputs(
        x=narrow(T, B, 3 * H),
        state=narrow(B, 1, H),
        keys=narrow(B, S, H),
        gates=narrow(B, S, 3 * H),
        bias=torch.zeros(B, S, device=report.device),
        score=normal(H).requires_grad_(),
        query=weight(H),
    )
    layer = weight(3 * H), torch.zeros(3 * H, device=report.device).requires_grad_()
    leaves = [x for x in (*given, *layer) if x is not None and x.requires_grad]
    grads = [normal(T, 1, B, H), normal(T, B, S)]

    def forward() -> tuple[Tensor, ...]:
        with _autocast(report.device, "bfloat16"):
            return recur(given, (layer,))

    def alone() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        torch.autograd.grad(forward(), leaves, grads)

    return alone, both


def _measure_recurrence(report: Report, size: Size, rates: dict[str, float] | None) -> None:
    contenders: dict[str, Contender] = {}

    def add(name: str, way: str, as_graph: bool) -> None:
        runs = _recurrence(report, size, way)
        for part, run in zip(("forward", "both ways"), runs, strict=True):
            report.warm_up(run)
            taken = captured(run) if as_graph else run
            contenders[f"recurrence, {part}, {name}"] = Contender(taken, float(size.T))

    for way in ("fast", "cuda"):
        for as_graph in (False, True) if report.device.type == "cuda" else (False,):
            name = way + ", graph" * as_graph
            report.attempt(f"recurrence, {name}, {size}", add, name, way, as_graph)
    timings = report.race(contenders, few=True)
    floors = {} if rates is None else step_floors(size, rates)
    for name, timing in timings.items():
        report.add(f"{name}, {size}", 1e6 / timing.rate, "us a step")
        for part, floor in floors.items():
            if part in name:
                report.add(f"{name}, {size}", 1 / (timing.rate * floor), "times the floor")
    for part, floor in floors.items():
        report.add(f"recurrence, {part}, floor, {size}", 1e6 * floor, "us a step")


def step_floors(size: Size, seconds_of: dict[str, float]) -> dict[str, float]:
    """Seconds that a step of the recurrence in bfloat16 takes at least, by measured rates."""
    B, S, H = size.B, size.S, size.H
    weights, source = 4 * H * H, B * S * 4 * H  # gates and query; gates and keys
    forward = max(
        (B * weights + source) * seconds_of["multiplication"],
        (weights + source) * torch.bfloat16.itemsize * seconds_of["byte"],
    )
    return {"forward": forward, "both ways": 3 * forward}


# --- by itself -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write a JSON that is whole at every moment."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_speed", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="begin nothing after these")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    args = parser.parse_args(arguments)
    machine = describe_machine() | {"command": "python -m benchmarks.gpu_speed"}

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
