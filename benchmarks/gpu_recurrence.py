"""The decoder's recurrence alone on a GPU, and what a device can do at best.

The floor of a recurrence is what no arrangement of it can beat: its multiplications at the rate
that the device shows on large ones, or its bytes (the weights, and the keys and gates of the batch,
once a step) at the rate of a large copy, whichever takes longer; backward counts twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bahdanau_hf.modeling.modeling_bahdanau import FAST_WAYS
from bahdanau_hf.modeling.recurrence_bahdanau import Inputs

from .gpu_report import Report, Size, autocast
from .stopwatch import Contender


def measure_ceilings(report: Report) -> dict[str, float]:
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

    def replay() -> None:
        assert run  # it holds the memory that the graph reads
        graph.replay()

    return replay


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
        with autocast(report.device, "bfloat16"):
            return recur(given, (layer,))

    def alone() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        torch.autograd.grad(forward(), leaves, grads)

    return alone, both


def measure_recurrence(report: Report, size: Size, rates: dict[str, float] | None) -> None:
    """Time the loop and the kernels, also as graphs, and hold them against the floor."""
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
