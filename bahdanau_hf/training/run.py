"""A run: model, data, optimizer and schedule put together, fresh or as a checkpoint left them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast, get_scheduler

from ..alignment.guided_loss import add_best_sources
from ..checkpoints import run_folder
from ..checkpoints.save_load import TrainerState, load_checkpoint, save_checkpoint
from ..data.noise import SourceNoise
from ..data.sources import pair_texts
from ..data.tokenization import side_kinds
from ..distributed import on_main_process
from ..errors import InputError
from ..gpu.step_graphs import StepGraphs
from ..hub.push import BackgroundPush
from ..inference.translator import Translator
from . import evaluation, loop, release, setup
from .arguments import Settings, TrainArguments
from .pairs import RunPairs, StreamedBatches, TrainingBatches
from .step import NonFiniteError, make_step_graphs

logger = logging.getLogger(__name__)


class Run:
    """A training from its first step to its release: `train`, then `finish`.

    The attribute `model` is what `accelerator.prepare` makes of the model, `bare_model` is without
    that. With a `checkpoint` all is as that has left it.

    Raises:
        InputError: the checkpoint belongs to another run or folder, the batches cannot be made, or
            the disk has no room for a checkpoint.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        settings: Settings,
        pairs: RunPairs,
        tokenizer: PreTrainedTokenizerFast,
        model: PreTrainedModel,
        checkpoint: Path | None = None,
    ) -> None:
        train, data, encoded = settings.train, settings.data, pairs.encoded["train"]
        self.accelerator, self.settings, self.pairs = accelerator, settings, pairs
        self.tokenizer, self.state, self._started = tokenizer, TrainerState(), 0.0
        kind = side_kinds(tokenizer)[1]
        self.target: dict[str, Any] = {"target_lang": data.target_lang, "target_kind": kind}
        self.output_dir = Path(train.output_dir)
        self.results_file = self.output_dir / "eval_results.json"  # the scores of a finished run
        self.total_steps = train.max_train_steps or 0  # of the optimizer
        share = train.source_noise
        noise = SourceNoise(tokenizer, share, train.seed) if share else None
        self.batches: TrainingBatches | StreamedBatches
        if data.streaming:
            self.batches = StreamedBatches(accelerator, settings, encoded, noise)
        else:
            if train.guided_attention_weight:
                if not model.config.use_attention:
                    raise InputError("--guided_attention_weight needs a model with attention")
                encoded = add_best_sources(encoded)
            reads = model.config.encoder_reads_padding
            self.batches = TrainingBatches(
                accelerator, settings, encoded, noise, reads_padding=reads
            )
            if train.max_train_steps is None:
                accumulated = accelerator.gradient_accumulation_steps
                steps_an_epoch = math.ceil(self.batches.batches_in(0) / accumulated)
                self.total_steps = math.ceil(train.num_train_epochs * steps_an_epoch)
        # What a resumed run must share.
        self.identity = setup.run_identity(accelerator, settings, pairs, model)
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, train))
        self.bare_model: PreTrainedModel = accelerator.unwrap_model(
            self.model, keep_torch_compile=False
        )
        batch_size = train.per_device_eval_batch_size
        self.translator = Translator(self.bare_model, tokenizer, batch_size)
        self.scheduler = get_scheduler(
            train.lr_scheduler_type,
            self.optimizer.optimizer,
            num_warmup_steps=train.num_warmup_steps,
            num_training_steps=self.total_steps,
        )
        self.pushes: BackgroundPush | None = None  # what goes to the Hub on the way
        if train.push_to_hub:
            name, private = release.repository_name(train), train.hub_private_repo
            self.pushes = BackgroundPush(name, private=private, token=train.hub_token)
        model_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        on_main_process(accelerator, lambda: run_folder.check_room(self.output_dir, model_bytes))
        # From here on the processes draw different dropout.
        set_seed(train.seed, device_specific=True)
        if checkpoint is not None:
            _go_on(self, checkpoint)
        # On the device, 1 once a graph's loss or gradient was not finite; else 0.
        self.has_failed = torch.zeros((), device=accelerator.device)
        self.reported_at = -math.inf  # when `report.html` was last written, in seconds of the run
        self.step_graphs: StepGraphs | None = make_step_graphs(self)

    # What takes more than a few lines is written in the module that it is named after.
    start_records = setup.start_records
    train = loop.train
    measure = evaluation.measure
    finish = release.finish
    save_release = release.save_release
    publish_step = release.publish_step
    publish = release.publish

    def start_clock(self) -> None:
        """Start to count `seconds`, from what earlier sittings took."""
        self._started = time.monotonic() - self.state.seconds

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run, without the pauses between sittings."""
        return time.monotonic() - self._started

    @property
    def is_late(self) -> bool:
        """Whether the time for training is over."""
        limit = self.settings.train.max_train_seconds
        return limit is not None and self.seconds > limit

    def reason_to_stop(self, *, out_of_time: bool = False) -> str:
        """Why there is no further step to take; empty if there is one."""
        state, args = self.state, self.settings.train
        if state.step >= self.total_steps:
            return f"all {self.total_steps} steps were taken"
        if out_of_time:
            return f"--max_train_seconds {args.max_train_seconds:g} are over"
        patience = args.early_stopping_patience
        if patience is not None and state.validations_without_gain >= patience:
            number = f"{patience} validations" if patience > 1 else "a validation"
            return f"{number} brought no gain (--early_stopping_patience)"
        return ""

    def ranking(self, scores: Mapping[str, float]) -> float:
        """The number by which validations are compared, higher is better.

        It is BLEU from 1 on; a lower one is chance, and the loss, below zero here, decides.
        """
        bleu, by_bleu = scores["eval_bleu"], self.settings.train.metric_for_best_model == "bleu"
        return bleu if by_bleu and bleu >= 1 else -scores["eval_loss"]

    def texts(self, split: str, limit: int | None = None) -> tuple[list[str], list[str]]:
        """Sources and references of a split, or the first `limit` of them."""
        data = self.settings.data
        return pair_texts(self.pairs.texts[split], data.source_lang, data.target_lang, limit)

    def trained_on(self) -> Iterator[str] | None:
        """The source sentences of training; `None` of a stream, which is not read twice."""
        pairs, lang = self.pairs.texts["train"], self.settings.data.source_lang
        if not isinstance(pairs, Dataset):
            return None
        return (row[lang] for batch in pairs.iter(10_000) for row in batch["translation"])

    def hint_to_restart(self) -> str:
        """Half a sentence: how to begin anew with what was saved, for a message to go on from."""
        kept = list(run_folder.list_checkpoints(self.output_dir).values())
        return f"Go on with --model_name_or_path {kept[-1]} and" if kept else "Try"

    def save(self) -> Path:
        """Write the present step's checkpoint, and remove those that are no longer needed.

        Raises:
            NonFiniteError: the last update has overflown.
            InputError: see `save_checkpoint`.
        """
        if not all(bool(p.isfinite().all()) for p in self.bare_model.parameters()):
            raise NonFiniteError(
                f"step {self.state.step}: a weight is no longer finite; it was not saved. "
                f"{self.hint_to_restart()} a lower --learning_rate"
            )
        folder = save_checkpoint(self)
        if self.accelerator.is_main_process:
            train = self.settings.train
            number = train.average_last_checkpoints
            recent = self.state.validations[-number:] if number else []
            keep = {self.state.best_step, *(line["step"] for line in recent)}
            run_folder.remove_checkpoints(self.output_dir, train.save_total_limit, keep)
        return folder


def _go_on(run: Run, checkpoint: Path) -> None:
    """Put a fresh run back to where a checkpoint left it."""
    load_checkpoint(run, checkpoint)
    state = run.state
    run.start_clock()
    if state.finished:  # it may have been given more steps, time or patience since
        state.finished = run.reason_to_stop(out_of_time=run.is_late)
    state.best_step, state.best_score = on_main_process(
        run.accelerator, lambda: _best_that_is_there(run, checkpoint)
    )
    if run.accelerator.is_main_process:
        run_folder.set_aside_later(run.output_dir, state.step)
        run_folder.cut_metrics(run.output_dir, state.step)
    run.accelerator.wait_for_everyone()
    logger.info("Going on from %s: %d of %d steps", checkpoint, state.step, run.total_steps)


def _best_that_is_there(run: Run, checkpoint: Path) -> tuple[int | None, float | None]:
    """Step and score of the best validation whose checkpoint is whole: the end will need it."""
    state, kept = run.state, run_folder.list_checkpoints(run.output_dir)
    best = state.best_step
    lines = [line for line in state.validations if line["step"] in kept]
    for line in sorted(lines, key=lambda line: (line["step"] != best, -run.ranking(line))):
        try:
            run_folder.verify_checkpoint(kept[line["step"]])
        except InputError as error:
            logger.warning("%s", error)
            continue
        if line["step"] == best:
            return best, state.best_score
        logger.warning("The best checkpoint is gone; of those left %s is", kept[line["step"]])
        return line["step"], run.ranking(line)
    if best is None:
        return None, None
    raise InputError(  # as where the run lies in another folder
        f"the run's best checkpoint, checkpoint-{best}, is not in {run.output_dir}: go on with "
        f"--output_dir {checkpoint.parent}, or start a new run with --model_name_or_path "
        f"{checkpoint}"
    )


def make_optimizer(model: nn.Module, args: TrainArguments) -> torch.optim.Optimizer:
    """AdamW or Adam; only matrices that are no embeddings decay."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    parameters = [(p, p.ndim >= 2 and id(p) not in embeddings) for p in model.parameters()]
    groups = [
        {"params": [p for p, decays in parameters if decays], "weight_decay": args.weight_decay},
        {"params": [p for p, decays in parameters if not decays], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if args.optimizer == "adamw" else torch.optim.Adam
    betas = (args.adam_beta1, args.adam_beta2)
    return kind(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon, fused=True)
