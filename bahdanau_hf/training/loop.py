"""The training loop: teacher forcing, evaluation, early stopping, saving."""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..checkpoints.run_folder import log_metrics, write_json
from ..checkpoints.save_load import TrainerState
from ..distributed import losses_are_told
from ..metrics.translation import few_sentences
from ..reporting.run_report import write_report
from .evaluation import length_limit, translate_some
from .step import StepDone, out_of_memory_is_told, take_step
from .trackers import log_attention

if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger(__name__)

NUM_WATCHED = 4  # validation sentences whose attention is shown while a run goes on
REPORT_SECONDS = 30  # between two reports without an evaluation
OUT_OF_TIME = "out of time"


class TrainingInterrupted(Exception):
    """A signal asked the run to stop; it is saved, and can go on from `checkpoint`."""

    def __init__(self, signum: int, checkpoint: Path):
        super().__init__(f"{signal.Signals(signum).name}: stopped, saved as {checkpoint}")
        self.signum = signum
        self.checkpoint = checkpoint


@dataclass
class Control:
    """What is to be done after a step, in the words of transformers' `TrainerControl`."""

    should_log: bool
    should_evaluate: bool
    should_save: bool  # an evaluation may decide this, and to stop
    interrupted_by: signal.Signals | None  # what any process has received, to stop at once
    should_stop: bool  # `state.finished` says why

    @property
    def acts(self) -> bool:
        """Whether anything is to be done before the next step."""
        return any(vars(self).values())


def train(run: Run) -> TrainerState:
    """Train until the steps, the time or the patience are used up; give `run.state`.

    After the last step there is always an evaluation and a checkpoint.

    Raises:
        NonFiniteError: loss, gradient or weights are not finite.
        OutOfMemory: a batch does not fit.
        ProcessLost: another process has ended.
        TrainingInterrupted: SIGINT or SIGTERM came; the run is saved.
    """
    state, accelerator = run.state, run.accelerator
    per_step = accelerator.gradient_accumulation_steps
    unread: list[StepDone] = []
    run.start_clock()
    run.model.train()
    bar = tqdm(
        total=run.total_steps,
        initial=state.step,
        disable=not accelerator.is_main_process,
        desc="train",
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 10,  # a log file wants fewer lines
        dynamic_ncols=True,
    )
    with StopSignals() as signals, bar, losses_are_told(accelerator):
        while not state.finished:
            for batches, ends_epoch in run.batches.steps(state, per_step):
                learning_rate = run.scheduler.get_last_lr()[0]
                done = take_step(
                    run, batches, lambda: {**signals.received, OUT_OF_TIME: run.is_late}, True
                )
                _count_step(state, done, len(batches), ends_epoch)
                control = decide(run, done, ends_epoch)
                unread.append(done)
                # A device takes this step while the one before is read, if nothing else follows.
                while len(unread) > (not control.acts):
                    earlier = unread.pop(0)
                    earlier.read()
                    state.loss_sum += earlier.loss_sum
                    state.logged_seconds += earlier.seconds
                bar.update()
                if control.should_log:
                    _log(run, bar, learning_rate, done.grad_norm)
                if control.should_evaluate:
                    evaluate(run, control)
                state.seconds = run.seconds
                if control.should_save or control.should_stop or control.interrupted_by:
                    folder = run.save()
                if control.interrupted_by:
                    raise TrainingInterrupted(control.interrupted_by, folder)
                if control.should_stop:
                    best = f"; the best validation was at step {state.best_step}"
                    logger.info("step %d: training ends: %s%s", state.step, state.finished, best)
                    break
                if control.should_evaluate:
                    run.publish_step()
    return state


def decide(run: Run, done: StepDone, ends_epoch: bool) -> Control:
    """What follows the step that was just counted; the same on every process."""
    state, train = run.state, run.settings.train
    state.finished = run.reason_to_stop(out_of_time=OUT_OF_TIME in done.reasons_to_stop)
    is_last = bool(state.finished)
    evaluates = is_last or _is_due(state.step, train.eval_steps, ends_epoch)
    received = (kind for kind in StopSignals.kinds if kind.name in done.reasons_to_stop)
    return Control(
        should_log=is_last or state.step % train.logging_steps == 0,
        should_evaluate=evaluates,
        should_save=_is_due(state.step, train.save_steps, evaluates)
        or (evaluates and train.average_last_checkpoints > 0),
        interrupted_by=next(received, None),
        should_stop=is_last,
    )


def evaluate(run: Run, control: Control) -> None:
    """Measure the model on validation and note it; save the best so far, stop without a gain."""
    state, train = run.state, run.settings.train
    with out_of_memory_is_told(
        f"step {state.step}: out of memory in validation. Go on with a lower "
        f"--per_device_eval_batch_size than {train.per_device_eval_batch_size}"
    ):
        scores = run.measure()
    line = _position(run) | scores
    state.validations.append(line)
    score = run.ranking(scores)
    has_gained = state.best_score is None or score > state.best_score
    if has_gained:
        state.best_score, state.best_step, state.validations_without_gain = score, state.step, 0
        control.should_save = True
    else:
        state.validations_without_gain += 1
        state.finished = state.finished or run.reason_to_stop()
        control.should_stop = bool(state.finished)
    if run.accelerator.is_main_process:
        _show_attention(run)
    _record(run, line, is_evaluation=True)
    number = min(len(run.pairs.texts["validation"]), train.max_eval_translations or sys.maxsize)
    few = f" ({note})" if (note := few_sentences(number)) else ""
    best = " (best)" if has_gained else ""
    logger.info(
        "step %d: validation loss %.3f, BLEU %.2f%s%s",
        *(state.step, scores["eval_loss"], scores["eval_bleu"], few, best),
    )


# --- small parts ---------------------------------------------------------------------------------


class StopSignals:
    """Notes SIGINT and SIGTERM, if it can, instead of dying of them; a second is not held back."""

    kinds = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received = dict.fromkeys((kind.name for kind in self.kinds), False)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere none can be set
            self._before = {kind: signal.signal(kind, self._note) for kind in self.kinds}
        return self

    def __exit__(self, *error: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received[signal.Signals(signum).name] = True
        self.__exit__()
        logger.warning("%s: saving after this step", signal.Signals(signum).name)


def _is_due(step: int, interval: int | None, otherwise: bool) -> bool:
    """Whether something falls due at `step`; without an interval, it goes with something else."""
    return otherwise if interval is None else step % interval == 0


def _count_step(state: TrainerState, done: StepDone, num_batches: int, ends_epoch: bool) -> None:
    state.step += 1
    state.batches_done += num_batches
    if ends_epoch:
        state.epoch, state.batches_done = state.epoch + 1, 0
    state.num_tokens += done.num_tokens
    state.skipped_steps += done.was_skipped


def _position(run: Run) -> dict[str, Any]:
    state, seconds = run.state, round(run.seconds, 3)
    return {"step": state.step, "epoch": run.batches.epochs_done(state), "seconds": seconds}


def _log(run: Run, bar: Any, learning_rate: float, grad_norm: float) -> None:
    """Record what the steps since the last line have brought, and count anew."""
    state = run.state
    line = _position(run) | {
        "loss": state.loss_sum / state.num_tokens,
        "learning_rate": learning_rate,
        "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
        "tokens_per_second": round(state.num_tokens / max(state.logged_seconds, 1e-9), 1),
    }
    if run.accelerator.scaler is not None:
        line["skipped_steps"] = state.skipped_steps
    state.loss_sum, state.num_tokens, state.logged_seconds = 0.0, 0, 0.0
    bar.set_postfix(
        loss=f"{line['loss']:.3f}", tokens_s=f"{line['tokens_per_second']:,.0f}", refresh=False
    )
    _record(run, line)


def _record(run: Run, line: dict[str, Any], is_evaluation: bool = False) -> None:
    """Write a line of `metrics.jsonl`, tell the trackers, and keep `report.html` up to date."""
    run.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])
    if run.accelerator.is_main_process:
        log_metrics(run.output_dir, line)
        if is_evaluation or run.seconds - run.reported_at >= REPORT_SECONDS:
            write_report(run.output_dir)
            run.reported_at = run.seconds


def _show_attention(run: Run) -> None:
    """Hand the report and the trackers maps of a few validation sentences, always the same."""
    sources, _ = run.texts("validation")
    limit = length_limit(run)
    translations = translate_some(run, sources, NUM_WATCHED, num_beams=1, max_new_tokens=limit)
    alignments = [t.alignment.as_dict() for t in translations if t.alignment is not None]
    if alignments:
        write_json(run.output_dir / "alignments.json", alignments)
    log_attention(run.accelerator, translations, run.state.step)
