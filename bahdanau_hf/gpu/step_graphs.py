"""A training step as one CUDA graph for each shape of batch.

A step is some hundreds of short kernels, from the forward pass to the optimizer's, and starting
each takes longer than it runs; a graph starts them all at once. It reads and writes the addresses
that it was recorded with: a batch is copied into tensors that stay, the learning rate is such a
tensor, and parameters and moments that were moved are noticed.

The first batch of a shape is computed as it is, so that libraries set themselves up and kernels are
compiled; the second one is recorded. All graphs share their memory, as one runs at a time. Without
a GPU the step is always computed as it is, on the same tensors.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_GRAPHS = 64  # the longest unused goes first

Batch = dict[str, Tensor]


class NotRecorded(RuntimeError):
    """A step could not be recorded, and nothing of it was computed."""


@dataclass
class Plan:
    """What is kept for a shape: the tensors that a step reads and writes, and its graph."""

    inputs: Batch
    outputs: tuple[Tensor, ...] = ()
    was_computed: bool = False
    graph: Any = None


class StepGraphs:
    """Takes training steps.

    Args:
        step: takes a batch on the device: forward and backward pass, the optimizer's step, and
            `zero_grad(set_to_none=True)`. It asks the device for nothing and sends it no numbers:
            what differs from step to step comes with the batch. What it returns is overwritten by
            the next step.
        optimizer: Adam or AdamW with `fused=True`, on one device, not wrapped. Its groups hold the
            learning rate as plain numbers, before and after a step.
    """

    def __init__(self, step: Callable[[Batch], tuple[Tensor, ...]], optimizer: Any) -> None:
        self._step, self._optimizer = step, optimizer
        groups = optimizer.param_groups
        self._parameters = [p for group in groups for p in group["params"]]
        self.device: torch.device = self._parameters[0].device
        self._rates = [torch.zeros((), device=self.device) for _ in groups]
        self._plans: OrderedDict[tuple, Plan] = OrderedDict()
        self._addresses: list[int] = []
        self._moments: Any = None
        self.records = self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if self.records else None

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """Take a step on a batch, whose tensors lie anywhere.

        Raises:
            NotRecorded: the weights are as they were; the gradients may be anything.
        """
        plan = self._find(batch)
        for name, x in batch.items():
            plan.inputs[name].copy_(x, non_blocking=True)
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if not (self.records and plan.was_computed):
            plan.was_computed = True
            # Not capturable: the optimizer would warn that nothing is being captured.
            with self._aside(), self._rates_are_tensors(capturable=False):
                return self._step(plan.inputs)
        if plan.graph is None:
            self._record(plan)
        plan.graph.replay()
        return plan.outputs

    def _find(self, batch: Batch) -> Plan:
        """The plan for a batch of this shape, made if there is none for where the weights lie."""
        moments = self._optimizer.state  # another object once they were loaded
        addresses = [len(moments), *(p.data_ptr() for p in self._parameters)]
        if addresses != self._addresses or moments is not self._moments:
            self._plans.clear()
            self._addresses, self._moments = addresses, moments
        shape = tuple((name, x.shape, x.dtype) for name, x in batch.items())
        if shape not in self._plans:
            while len(self._plans) >= MOST_GRAPHS:
                self._plans.popitem(last=False)
            inputs = {name: torch.empty_like(x, device=self.device) for name, x in batch.items()}
            self._plans[shape] = Plan(inputs)
        self._plans.move_to_end(shape)
        return self._plans[shape]

    def _record(self, plan: Plan) -> None:
        def body() -> None:
            plan.outputs = self._step(plan.inputs)

        # Memory is shared with any other graph, as long as there is one.
        pool = next((other.graph.pool() for other in self._plans.values() if other.graph), None)
        self._optimizer.zero_grad(set_to_none=True)  # gradients are to lie there too
        try:
            with self._rates_are_tensors(capturable=True):
                plan.graph = record(body, pool, self._stream)
        except RuntimeError as error:
            # What breaks off a recording is told by the error before.
            raise NotRecorded(str(error.__context__ or error)) from error

    @contextmanager
    def _rates_are_tensors(self, capturable: bool) -> Iterator[None]:
        """Let the optimizer read the learning rate from the device."""
        groups = self._optimizer.param_groups
        before = [{name: group[name] for name in ("lr", "capturable")} for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group.update(lr=rate, capturable=capturable)
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Compute on the stream that is recorded later: what libraries set up belongs to it."""
        if self._stream is None:
            yield
            return
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            yield
        here.wait_stream(self._stream)


def record(body: Callable[[], None], pool: Any, stream: Any) -> torch.cuda.CUDAGraph:
    """Record what a body does on a stream, in the memory of `pool` if given, without doing it.

    Raises:
        RuntimeError: the memory does not suffice, or the body does what cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    mode = "thread_local"  # other threads may use the device meanwhile
    # The outer block goes back to the present stream, which the inner one leaves undone on errors.
    with (
        torch.cuda.stream(stream),
        torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=mode),
    ):
        body()
    return graph
