"""A run: model, data, optimizer and schedule put together, fresh or as a checkpoint left them."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast, get_scheduler

from ..alignment.guided_loss import add_best_sources
from ..checkpoints.run_folder import (
    cut_metrics,
    list_checkpoints,
    move_files,
    remove_checkpoints,
    set_aside_later,
    share_files,
    unfinished,
    writing,
)
from ..checkpoints.save_load import TrainerState, load_checkpoint, save_checkpoint
from ..errors import InputError
from ..hub.model_card import write_model_card
from ..hub.push import BackgroundPush
from .arguments import DataArguments, TrainArguments
from .batches import StreamedBatches, TrainingBatches
from .setup import RunPairs, run_identity

logger = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Loss, gradient or weights are not finite numbers; nothing of them was saved."""


@dataclass
class Run:
    """All that the loop works on.

    Attributes:
        accelerator: placement and the other processes.
        model: as `accelerator.prepare` wrapped it.
        bare_model: the same model, unwrapped.
        tokenizer: the model's.
        pairs: training features, validation features and texts.
        batches: what every process learns from.
        optimizer: prepared.
        scheduler: steps once an optimizer step.
        total_steps: optimizer steps of the whole run.
        state: how far it has come.
        identity: what a resumed run must share.
        data_args: languages and lengths.
        args: how to train.
        pushes: what goes to the Hub on the way; `None`: nothing does.
        reported_at: when `report.html` was last written.
    """

    accelerator: Accelerator
    model: nn.Module
    bare_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    pairs: RunPairs
    batches: TrainingBatches | StreamedBatches
    optimizer: Any
    scheduler: Any
    total_steps: int
    state: TrainerState
    identity: dict[str, Any]
    data_args: DataArguments
    args: TrainArguments
    pushes: BackgroundPush | None = None
    reported_at: float = -math.inf  # seconds
    _started: float = 0.0

    def start_clock(self) -> None:
        """Let `seconds` go on from what earlier sittings took."""
        self._started = time.monotonic() - self.state.seconds

    @property
    def seconds(self) -> float:
        """Wall clock of the run since it was started, without the time it lay still."""
        return time.monotonic() - self._started

    @property
    def is_late(self) -> bool:
        """Whether the time for training is over."""
        return (
            self.args.max_train_seconds is not None and self.seconds > self.args.max_train_seconds
        )

    def reason_to_stop(self, *, out_of_time: bool = False) -> str:
        """Why there is no further step to take; empty if there is one."""
        state, args = self.state, self.args
        if state.step >= self.total_steps:
            return f"all {self.total_steps} steps are taken"
        if out_of_time:
            return f"--max_train_seconds {args.max_train_seconds:g} are over"
        patience = args.early_stopping_patience
        if patience is not None and state.validations_without_gain >= patience:
            return f"{patience} validations brought no gain"
        return ""

    def ranking(self, scores: Mapping[str, float]) -> float:
        """The number by which validations are compared, higher is better."""
        if self.args.metric_for_best_model == "bleu":
            return scores["eval_bleu"]
        return -scores["eval_loss"]

    @property
    def output_dir(self) -> Path:
        """The run's folder."""
        return Path(self.args.output_dir)

    def hint_to_restart(self) -> str:
        """Half a sentence: how to begin anew with what was saved, for a message to go on from."""
        kept = list(list_checkpoints(self.output_dir).values())
        return f"Go on with --model_name_or_path {kept[-1]} and" if kept else "Try"

    def save(self) -> Path:
        """Write the present step's checkpoint, and remove those that are no longer needed.

        Raises:
            NonFiniteError: on every process: the last update has overflown.
            InputError: the disk is full, or cannot be written to.
        """
        if not all(bool(p.isfinite().all()) for p in self.bare_model.parameters()):
            raise NonFiniteError(
                f"step {self.state.step}: a weight is no longer finite; it was not saved. "
                f"{self.hint_to_restart()} a lower --learning_rate"
            )
        folder = save_checkpoint(
            self.output_dir,
            self.state,
            accelerator=self.accelerator,
            model=self.bare_model,
            tokenizer=self.tokenizer,
            optimizer=self.optimizer.optimizer,
            scheduler=self.scheduler,
            identity=self.identity,
        )
        best = self.state.best_step
        keep = set() if best is None else {best}
        if self.args.average_last_checkpoints:
            recent = self.state.validations[-self.args.average_last_checkpoints :]
            keep |= {line["step"] for line in recent}
        if self.accelerator.is_main_process:
            remove_checkpoints(self.output_dir, self.args.save_total_limit, keep)
        return folder


def make_optimizer(model: nn.Module, args: TrainArguments) -> torch.optim.Optimizer:
    """AdamW or Adam; only matrices that are no embeddings decay."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        (decaying if is_matrix else others).append(parameter)
    kind = torch.optim.AdamW if args.optimizer == "adamw" else torch.optim.Adam
    return kind(
        [
            {"params": decaying, "weight_decay": args.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        fused=True,
    )


def start_run(
    accelerator: Accelerator,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: RunPairs,
    data_args: DataArguments,
    args: TrainArguments,
    checkpoint: Path | None = None,
) -> Run:
    """Put optimizer, schedule and batches together; with a checkpoint, as it left them.

    Raises:
        InputError: the checkpoint belongs to another run, or the batches cannot be made.
    """
    batches: TrainingBatches | StreamedBatches
    if data_args.streaming:
        batches = StreamedBatches(pairs.encoded["train"], data_args, args, accelerator)
    else:
        encoded = pairs.encoded["train"]
        if args.guided_attention_weight:
            if not model.config.use_attention:
                raise InputError("--guided_attention_weight needs a model with attention")
            encoded = add_best_sources(encoded)
        batches = TrainingBatches(encoded, data_args, args, accelerator)
    if args.max_train_steps is None and isinstance(batches, TrainingBatches):
        steps_a_pass = math.ceil(batches.batches_in(0) / accelerator.gradient_accumulation_steps)
        total_steps = math.ceil(args.num_train_epochs * steps_a_pass)
    else:
        total_steps = args.max_train_steps or 0
    identity = run_identity(accelerator, model, pairs.encoded, data_args, args)
    wrapped, optimizer = accelerator.prepare(model, make_optimizer(model, args))
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer.optimizer,
        num_warmup_steps=args.num_warmup_steps,
        num_training_steps=total_steps,
    )
    run = Run(
        accelerator=accelerator,
        model=wrapped,
        bare_model=accelerator.unwrap_model(wrapped),
        tokenizer=tokenizer,
        pairs=pairs,
        batches=batches,
        optimizer=optimizer,
        scheduler=scheduler,
        total_steps=total_steps,
        state=TrainerState(),
        identity=identity,
        data_args=data_args,
        args=args,
        pushes=_background_push(args),
    )
    # From here on the processes draw different dropout.
    set_seed(args.seed, device_specific=True)
    if checkpoint is not None:
        _go_on(run, checkpoint)
    return run


def _go_on(run: Run, checkpoint: Path) -> None:
    """Put a fresh run back to where a checkpoint left it."""
    state = run.state = load_checkpoint(
        checkpoint,
        accelerator=run.accelerator,
        model=run.bare_model,
        optimizer=run.optimizer.optimizer,
        scheduler=run.scheduler,
        identity=run.identity,
    )
    run.start_clock()
    if state.finished:  # it may have been given more steps, time or patience since
        state.finished = run.reason_to_stop(out_of_time=run.is_late)
    if run.accelerator.is_main_process:
        set_aside_later(run.output_dir, state.step)
        cut_metrics(run.output_dir, state.step)
    run.accelerator.wait_for_everyone()
    logger.info("Going on from %s: %d of %d steps", checkpoint, state.step, run.total_steps)


def _background_push(args: TrainArguments) -> BackgroundPush | None:
    if not args.push_to_hub:
        return None
    return BackgroundPush(
        repository_name(args), private=args.hub_private_repo, token=args.hub_token
    )


def repository_name(args: TrainArguments) -> str:
    """The repository that a run is pushed to."""
    return args.hub_model_id or Path(args.output_dir).resolve().name


def save_release(run: Run, folder: Path | None = None) -> None:
    """Write the model as it is now, complete and with a card; default: into `output_dir`.

    Raises:
        InputError: the disk is full, or cannot be written to.
    """
    folder = folder or run.output_dir
    aside = unfinished(folder / "release")
    with writing(folder / "model.safetensors"):
        try:
            run.bare_model.save_pretrained(aside)
            run.tokenizer.save_pretrained(aside)
            share_files(aside)
            move_files(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    write_model_card(folder, name=repository_name(run.args))
