"""The training loop: teacher forcing, validation, early stopping, saving."""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm.auto import tqdm

from ..checkpoints.run_folder import log_metrics, write_json
from ..checkpoints.save_load import TrainerState
from ..data.preprocessing import pair_lengths, pair_texts
from ..distributed import losses_are_told
from ..reporting.run_report import write_report
from .background_push import publish_step
from .batches import make_collator
from .evaluation import (
    precision_of_training,
    score_on_main,
    translate_on_all,
    translate_some,
    validation_loss,
)
from .run import Run
from .step import StepDone, out_of_memory_is_told, take_step
from .trackers import log_attention

logger = logging.getLogger(__name__)

NUM_WATCHED = 4  # validation sentences whose attention is shown while a run goes on
REPORT_SECONDS = 30  # between two reports without a validation


class TrainingInterrupted(Exception):
    """A signal asked the run to stop; what it was is saved.

    Attributes:
        signum: the signal.
        checkpoint: where to go on from.
    """

    def __init__(self, signum: int, checkpoint: Path):
        super().__init__(f"{signal.Signals(signum).name}: stopped, saved as {checkpoint}")
        self.signum = signum
        self.checkpoint = checkpoint


# --- the loop ------------------------------------------------------------------------------------


def train(run: Run) -> TrainerState:
    """Train until the steps, the time or the patience are used up.

    Validations, lines of the log and checkpoints come when the arguments say; after the last step
    there is always a validation and a checkpoint.

    Raises:
        NonFiniteError: loss, gradient or weights are not finite.
        OutOfMemory: a batch does not fit.
        ProcessLost: another process has ended.
        TrainingInterrupted: SIGINT or SIGTERM came; the run is saved.
    """
    args, state = run.args, run.state
    per_step = run.accelerator.gradient_accumulation_steps
    run.start_clock()
    run.model.train()
    with (
        StopSignals() as signals,
        _progress_bar(run) as bar,
        losses_are_told(run.accelerator),
    ):
        while not state.finished:
            for batches, ends_epoch in run.batches.steps(state, per_step):
                learning_rate = run.scheduler.get_last_lr()[0]
                done = take_step(run, batches, lambda: [*signals.received, run.is_late])
                _count_step(state, done, len(batches), ends_epoch)
                state.finished = run.reason_to_stop(out_of_time=bool(done.stop[-1]))
                bar.update()
                if state.step % args.logging_steps == 0 or state.finished:
                    _log(run, bar, learning_rate, done.grad_norm)
                validates = _is_due(state.step, args.eval_steps, ends_epoch) or bool(state.finished)
                has_gained = validates and validate(run)
                keeps = has_gained or (validates and args.average_last_checkpoints > 0)
                saves = keeps or _is_due(state.step, args.save_steps, validates)
                signum = signals.agreed(done.stop)
                state.seconds = run.seconds
                if saves or state.finished or signum:
                    folder = run.save()
                if signum:
                    raise TrainingInterrupted(signum, folder)
                if state.finished:
                    break
                if validates and args.push_to_hub:
                    publish_step(run)
    return state


def validate(run: Run) -> bool:
    """Measure the model on validation, note it, and say whether it is the best so far.

    Early stopping is decided here, on every process by the same numbers.
    """
    state, args = run.state, run.args
    with out_of_memory_is_told(
        f"step {state.step}: out of memory in validation. Go on with a lower "
        f"--per_device_eval_batch_size than {args.per_device_eval_batch_size}"
    ):
        scores = measure(run)
    line = {
        "step": state.step,
        "epoch": run.batches.epochs_done(state),
        "seconds": round(run.seconds, 3),
        **scores,
    }
    state.validations.append(line)
    score = run.ranking(scores)
    has_gained = state.best_score is None or score > state.best_score
    if has_gained:
        state.best_score, state.best_step = score, state.step
        state.validations_without_gain = 0
    else:
        state.validations_without_gain += 1
        state.finished = state.finished or run.reason_to_stop()
    if run.accelerator.is_main_process:
        _show_attention(run)
    _record(run, line, is_validation=True)
    best = " (best)" if has_gained else ""
    logger.info(
        "step %d: validation loss %.3f, BLEU %.2f%s",
        *(state.step, scores["eval_loss"], scores["eval_bleu"], best),
    )
    return has_gained


def measure(run: Run) -> dict[str, float]:
    """Loss, BLEU and chrF on validation."""
    args = run.args
    langs = (run.data_args.source_lang, run.data_args.target_lang)
    sources, references = pair_texts(
        run.pairs.texts["validation"], *langs, args.max_eval_translations
    )
    with precision_of_training(run.accelerator, run.bare_model):
        loss = validation_loss(
            run.bare_model,
            run.pairs.encoded["validation"],
            run.accelerator,
            batch_size=args.per_device_eval_batch_size,
            collator=make_collator(run.data_args),
        )
        hypotheses = translate_on_all(
            run.bare_model,
            run.tokenizer,
            sources,
            run.accelerator,
            batch_size=args.per_device_eval_batch_size,
            num_beams=args.eval_num_beams or 1,
            max_new_tokens=_length_limit(run),
        )
    scores = score_on_main(run.accelerator, hypotheses, references, langs[1])
    return {"eval_loss": loss, "eval_bleu": scores.bleu, "eval_chrf": scores.chrf}


# --- small parts ---------------------------------------------------------------------------------


class StopSignals:
    """Notes SIGINT and SIGTERM instead of dying of them; a second one is not held back.

    Outside the main thread, where no handler can be set, it notes nothing.
    """

    kinds = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received = [False] * len(self.kinds)
        self._before: list[Any] = []

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = [signal.signal(kind, self._note) for kind in self.kinds]
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for kind, handler in zip(self.kinds, self._before, strict=False):
            signal.signal(kind, handler)
        self._before = []

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received[self.kinds.index(signal.Signals(signum))] = True
        self._restore()
        logger.warning("%s: saving after this step", signal.Signals(signum).name)

    def agreed(self, counts: list[float]) -> int:
        """The signal that any process has received, 0 if none has."""
        return next((int(kind) for kind, n in zip(self.kinds, counts, strict=False) if n), 0)


def _is_due(step: int, interval: int | None, otherwise: bool) -> bool:
    """Whether something falls due at `step`; without an interval, it goes with something else."""
    return otherwise if interval is None else step % interval == 0


def _count_step(state: TrainerState, done: StepDone, num_batches: int, ends_epoch: bool) -> None:
    state.step += 1
    state.batches_done += num_batches
    if ends_epoch:
        state.epoch, state.batches_done = state.epoch + 1, 0
    state.loss_sum += done.loss_sum
    state.num_tokens += done.num_tokens
    state.logged_seconds += done.seconds
    state.skipped_steps += done.was_skipped


def _progress_bar(run: Run) -> Any:
    return tqdm(
        total=run.total_steps,
        initial=run.state.step,
        disable=not run.accelerator.is_main_process,
        desc="train",
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 10,  # a log file wants fewer lines
        dynamic_ncols=True,
    )


def _log(run: Run, bar: Any, learning_rate: float, grad_norm: float) -> None:
    """Record what the steps since the last line have brought, and count anew."""
    state = run.state
    line = {
        "step": state.step,
        "epoch": run.batches.epochs_done(state),
        "seconds": round(run.seconds, 3),
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


def _record(run: Run, line: dict[str, Any], is_validation: bool = False) -> None:
    """Write a line of `metrics.jsonl`, tell the trackers, and keep `report.html` up to date."""
    values = {name: value for name, value in line.items() if name != "step"}
    run.accelerator.log(values, step=line["step"])
    if run.accelerator.is_main_process:
        log_metrics(run.output_dir, line)
        if is_validation or run.seconds - run.reported_at >= REPORT_SECONDS:
            write_report(run.output_dir)
            run.reported_at = run.seconds


def _show_attention(run: Run) -> None:
    """Hand the report and the trackers maps of a few validation sentences, always the same."""
    sources, _ = pair_texts(
        run.pairs.texts["validation"], run.data_args.source_lang, run.data_args.target_lang
    )
    with precision_of_training(run.accelerator, run.bare_model):
        translations = translate_some(
            run.bare_model,
            run.tokenizer,
            sources,
            NUM_WATCHED,
            num_beams=1,
            max_new_tokens=_length_limit(run),
        )
    alignments = [t.alignment.as_dict() for t in translations if t.alignment is not None]
    if alignments:
        write_json(run.output_dir / "alignments.json", alignments)
    log_attention(run.accelerator, translations, run.state.step)


def _length_limit(run: Run) -> int:
    """Tokens of a translation: a model that has not yet learnt to end would write on and on."""
    longest = int(pair_lengths(run.pairs.encoded["validation"])[1].max())
    return min(run.data_args.max_target_length, longest + longest // 2)
