"""One optimizer step over all processes and micro-batches, and what can go wrong in it."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn

from ..alignment.guided_loss import guided_attention_loss
from ..data.batching import IGNORED_LABEL
from ..distributed import sum_over_processes
from ..errors import InputError
from ..gpu.step_graphs import NotRecorded, StepGraphs
from .pairs import Batch

if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger(__name__)

DROPOUTS = ("dropout", "embedding_dropout", "readout_dropout", "attention_dropout")


class NonFiniteError(RuntimeError):
    """Loss, gradient or weights are not finite numbers; nothing of them was saved."""


class OutOfMemory(InputError):
    """A batch does not fit into memory; the message names the setting to lower."""


@dataclass
class StepDone:
    """What an optimizer step did, over all processes."""

    loss_sum: float  # of the target tokens, with label smoothing, without guided attention
    num_tokens: int  # real ones of the targets
    grad_norm: float  # before clipping; not finite if the step was skipped
    reasons_to_stop: frozenset[str]  # those that any process has
    seconds: float
    was_skipped: bool = False  # the gradient scaler met an overflow: the weights are as they were
    unread: Callable[[], tuple[float, float]] | None = None  # gives loss and norm, once computed

    def read(self) -> None:
        """Wait for loss and norm.

        Raises:
            NonFiniteError: neither this step nor a later one has touched the weights.
        """
        if self.unread is not None:
            began, unread, self.unread = time.monotonic(), self.unread, None
            self.loss_sum, self.grad_norm = unread()
            self.seconds += time.monotonic() - began


def take_step(
    run: Run,
    micro_batches: list[Batch],
    reasons_to_stop: Callable[[], Mapping[str, bool]] = dict,
    may_wait: bool = False,
) -> StepDone:
    """One optimizer step on the sum of all processes' and micro-batches' losses, divided once.

    Args:
        run: changed in place.
        micro_batches: this process's; as many as every other's, of any size.
        reasons_to_stop: tells which this process has after the step, by names that all have.
        may_wait: the step is `read` later, if a CUDA graph takes it: the device then computes while
            the next one is prepared.

    Raises:
        NonFiniteError: before the weights are touched, on every process.
        OutOfMemory: the batches do not fit into memory, nor their halves where halving is exact.
    """
    accelerator, args = run.accelerator, run.settings.train
    began = time.monotonic()
    own_tokens = sum(int((batch["labels"] != IGNORED_LABEL).sum()) for batch in micro_batches)
    num_tokens = int(sum_over_processes(accelerator, [own_tokens])[0])
    # The tutorial divides by the padded length, which halves of a batch would share.
    divisors = [num_tokens] * len(micro_batches)
    if args.loss_reduction == "tutorial":
        padded = run.settings.data.max_target_length if run.settings.data.pad_to_max_length else 0
        divisors = [padded or _extent(batch)[2] for batch in micro_batches]
    if (graphed := _take_graphed(run, micro_batches, divisors)) is not None:
        done = _graphed_step(run, graphed, num_tokens, reasons_to_stop())
        if not may_wait:
            done.read()
        run.scheduler.step()
        done.seconds = time.monotonic() - began
        return done
    own_loss = _add_gradients(run, micro_batches, divisors)
    own_norm = accelerator.clip_grad_norm_(run.model.parameters(), args.max_grad_norm or math.inf)
    own = torch.stack([own_loss, own_norm.to(own_loss)])
    own_reasons = reasons_to_stop()
    # The only numbers of a step that are waited for, in one copy. The norm is everyone's already.
    loss_sum, norm_sum, *counts = sum_over_processes(accelerator, [own, *own_reasons.values()])
    grad_norm = norm_sum / accelerator.num_processes
    reasons = frozenset(name for name, n in zip(own_reasons, counts, strict=True) if n)
    was_skipped = _check_finite(run, run.state.step + 1, grad_norm, loss_sum, num_tokens)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if not was_skipped:
        run.scheduler.step()
    seconds = time.monotonic() - began
    return StepDone(loss_sum, num_tokens, grad_norm, reasons, seconds, was_skipped)


def _check_finite(run: Run, step: int, grad_norm: float, loss_sum: float, num_tokens: int) -> bool:
    """See that loss and gradient are finite; True if the gradient scaler will skip the step."""
    scaler = run.accelerator.scaler
    # A scaler skips a step whose gradients are not finite, and lowers its scale. Below 1 it is no
    # longer the scale that makes them overflow.
    is_skipped = scaler is not None and not math.isfinite(grad_norm)
    is_excused = is_skipped and scaler.get_scale() >= 1
    if not (math.isfinite(loss_sum) and (math.isfinite(grad_norm) or is_excused)):
        run.optimizer.zero_grad()
        what = "gradient" if math.isfinite(loss_sum) else "loss"
        value = grad_norm if math.isfinite(loss_sum) else loss_sum / num_tokens
        raise NonFiniteError(
            f"step {step}: the {what} is {value}. Training stopped before the "
            f"weights were touched. {run.hint_to_restart()} a lower --learning_rate or "
            "--max_grad_norm"
        )
    return is_skipped


# --- the step as a CUDA graph --------------------------------------------------------------------


def make_step_graphs(run: Run) -> StepGraphs | None:
    """What takes a run's steps as CUDA graphs, where they can be; it is logged why, or why not."""
    if run.accelerator.device.type != "cuda":
        return None
    if obstacle := _obstacle_to_graphs(run):
        logger.info("Steps run eagerly: %s", obstacle)
        return None
    logger.info("Steps run as CUDA graphs, one for each shape of batch")
    return StepGraphs(lambda batch: whole_step(run, batch), run.optimizer.optimizer)


def _obstacle_to_graphs(run: Run) -> str | None:
    """Why a step cannot be a CUDA graph; `None` if it can."""
    accelerator, model = run.accelerator, cast(Any, run.bare_model)
    obstacles = {
        "BAHDANAU_STEP_GRAPHS is 0": os.environ.get("BAHDANAU_STEP_GRAPHS") == "0",
        "several processes": accelerator.num_processes > 1,
        f"the model is in a {type(run.model).__name__}": run.model is not model,
        "gradients of several batches are added up": accelerator.gradient_accumulation_steps > 1,
        "a gradient scaler watches float16": accelerator.scaler is not None,
    }
    # Not of the whole model: accelerate replaces its `forward`, for mixed precision.
    for part in (model.model, model.lm_head):
        name, reason = model.chosen_implementation(part)
        obstacles[f"the model is computed by its modules ({reason})"] = name == "reference"
    return next((why for why, is_there in obstacles.items() if is_there), None)


def whole_step(run: Run, batch: Batch) -> tuple[Tensor]:
    """Take a step on one batch of the device, without a look at what is computed.

    Weights and moments stay as they are if loss or gradient is not finite, in this step or in one
    before it that was not yet read. The schedule does not step. The batch has the number that the
    loss is divided by, as `divisor`.

    Returns:
        The loss before division, and the norm of the gradient: `(2,)`.
    """
    batch = dict(batch)
    loss = _add_gradient(run, batch, batch.pop("divisor"), factor=1)
    max_norm = run.settings.train.max_grad_norm or math.inf
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), max_norm).to(loss)
    done = torch.stack([loss, norm])
    optimizer = run.optimizer.optimizer
    optimizer.found_inf = run.has_failed.masked_fill_(~done.isfinite().all(), 1.0)
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # which is how a gradient scaler tells it
    optimizer.zero_grad(set_to_none=True)
    return (done,)


def _graphed_step(run: Run, own: Tensor, num_tokens: int, reasons: Mapping[str, bool]) -> StepDone:
    """The step whose loss and norm a graph writes into `own`, which the next step overwrites."""
    step = run.state.step + 1
    host = torch.empty_like(own, device="cpu", pin_memory=own.is_cuda)
    host.copy_(own, non_blocking=True)
    event = torch.cuda.current_stream().record_event() if own.is_cuda else None

    def read() -> tuple[float, float]:
        if event is not None:
            event.synchronize()
        loss_sum, grad_norm = host.tolist()
        try:
            _check_finite(run, step, grad_norm, loss_sum, num_tokens)
        except NonFiniteError:
            run.has_failed.zero_()
            raise
        return loss_sum, grad_norm

    present = frozenset(name for name, is_present in reasons.items() if is_present)
    return StepDone(math.nan, num_tokens, math.nan, present, 0.0, unread=read)


def _take_graphed(run: Run, batches: list[Batch], divisors: list[int]) -> Tensor | None:
    """Take the step as a graph: what `whole_step` returns, or `None` if it has to be eager."""
    # A run's first step is eager: the optimizer makes its moments.
    if run.step_graphs is None or not run.optimizer.optimizer.state:
        return None
    divisor = torch.tensor(float(divisors[0]))
    try:
        return run.step_graphs({**batches[0], "divisor": divisor})[0]
    except RuntimeError as error:
        if not (isinstance(error, NotRecorded) or should_reduce_batch_size(error)):
            raise
        reason = str(error).partition("\n")[0]
    run.step_graphs = None
    run.optimizer.zero_grad()
    clear_device_cache(garbage_collection=True)
    logger.warning(
        "step %d: no CUDA graphs from here on, steps run eagerly: %s", run.state.step + 1, reason
    )
    return None


# --- gradients, and the memory they take ---------------------------------------------------------


def _add_gradients(run: Run, batches: list[Batch], divisors: list[int]) -> Tensor:
    """Sum the gradients of the batches; once in halves, if memory does not suffice.

    Halves give the sum of the whole only if nothing is drawn at random, and with several processes
    the others may have exchanged a part of the failed sum already. Returned is as in `_backward`.
    """
    try:
        return _backward(run, batches, divisors)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
    # The error is forgotten by now: it holds what the failed attempt has allocated.
    run.optimizer.zero_grad()
    clear_device_cache(garbage_collection=True)
    draws = any(getattr(run.bare_model.config, name) > 0 for name in DROPOUTS)
    is_exact = run.accelerator.num_processes == 1 and not draws
    sizes = [len(batch["labels"]) for batch in batches]
    if not is_exact or max(sizes) == 1:
        raise OutOfMemory(_complaint(run, batches))
    logger.warning(
        "step %d: out of memory in a batch of %d pairs; taking the step again in halves",
        *(run.state.step + 1, max(sizes)),
    )
    halves = [_halves(batch) for batch in batches]
    repeated = [divisor for divisor, two in zip(divisors, halves, strict=True) for _ in two]
    with out_of_memory_is_told(_complaint(run, batches)):
        return _backward(run, list(chain.from_iterable(halves)), repeated)


def _backward(run: Run, batches: list[Batch], divisors: list[int]) -> Tensor:
    """Sum them; returned is the loss of this process before division."""
    accelerator = run.accelerator
    # Undo what others divide by: gradients are averaged over processes, and `backward` divides by
    # the number of micro-batches, which in the last step of an epoch may not be the true one.
    factor = accelerator.num_processes * accelerator.gradient_accumulation_steps
    own_loss = torch.zeros((), device=accelerator.device)
    for i, (batch, divisor) in enumerate(zip(batches, divisors, strict=True)):
        batch = {k: x.to(accelerator.device, non_blocking=True) for k, x in batch.items()}
        is_last = i == len(batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(run.model):
            own_loss += _add_gradient(run, batch, divisor, factor)
    return own_loss


def _add_gradient(run: Run, batch: Batch, divisor: int | Tensor, factor: int) -> Tensor:
    """Add a batch's gradient, times a factor; returned is its loss before division."""
    places = batch.pop("best_sources", None)
    outputs = run.model(
        **batch,
        skip_logits=True,
        num_items_in_batch=divisor,
        label_smoothing=run.settings.train.label_smoothing_factor,
        output_attentions=places is not None,
    )
    loss = total = outputs.loss
    if places is not None:
        guided = guided_attention_loss(outputs.cross_attentions[0][:, 0], places)
        total = loss + run.settings.train.guided_attention_weight * guided / divisor
    run.accelerator.backward(total * factor)
    return loss.detach() * divisor


def _halves(batch: Batch) -> list[Batch]:
    size = len(batch["labels"])
    cuts = [slice(0, size)] if size == 1 else [slice(0, size // 2), slice(size // 2, size)]
    return [{name: tensor[cut] for name, tensor in batch.items()} for cut in cuts]


def _extent(batch: Batch) -> tuple[int, int, int]:
    """Pairs of a batch, and tokens of its longest source and target, without what only fills it."""
    targets = (batch["labels"] != IGNORED_LABEL).sum(dim=1)
    longest = int(batch["attention_mask"].sum(dim=1).max()), int(targets.max())
    return int((targets > 0).sum()), *longest


@contextmanager
def out_of_memory_is_told(complaint: str) -> Iterator[None]:
    """Turn a lack of memory into an `OutOfMemory` with this message."""
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise OutOfMemory(complaint) from None


def _complaint(run: Run, batches: list[Batch]) -> str:
    pairs, source, target = _extent(max(batches, key=lambda batch: batch["labels"].numel()))
    by_tokens = run.settings.data.max_tokens_per_batch is not None
    setting = "max_tokens_per_batch" if by_tokens else "per_device_train_batch_size"
    return (
        f"step {run.state.step + 1}: out of memory in a batch of {pairs} pairs of up to {source} "
        f"and {target} tokens. {run.hint_to_restart()} a lower --{setting} (and as much more of "
        "--gradient_accumulation_steps), or with lower maximum lengths"
    )
