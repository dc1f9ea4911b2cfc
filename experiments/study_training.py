"""One way of training and translating for all systems of the study."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast, get_scheduler

from bahdanau_hf.data.batching import IGNORED_LABEL, LengthBucketBatchSampler, PairCollator
from bahdanau_hf.data.preprocessing import encode_pairs, load_pairs, pair_lengths, pair_texts
from bahdanau_hf.data.tokenization import EOS_ID
from bahdanau_hf.modeling.pipeline_bahdanau import find_translations
from bahdanau_hf.training.arguments import DataArguments, ModelArguments, TrainArguments
from bahdanau_hf.training.run import make_optimizer
from bahdanau_hf.training.setup import prepare_features, prepare_tokenizer
from benchmarks.stopwatch import Contender, race

from .study_systems import Batch, batch_loss, make_system

RACE_BATCHES = 10


@dataclass(frozen=True)
class Setting:
    """What is tuned for each system.

    Attributes:
        learning_rate: at its peak.
        warmup: share of the steps in which the rate rises.
        dropout: of embeddings and readout; of MarianMT, wherever it has any.
        label_smoothing: in training.
    """

    learning_rate: float
    warmup: float
    dropout: float
    label_smoothing: float


@dataclass
class Study:
    """What all systems have in common.

    Attributes:
        model_args: shape of the system with attention.
        data_args: files, languages, lengths.
        train_args: batches, optimizer, schedule, smoothing.
        tokenizer: trained on the training pairs.
        encoded: training pairs as ids.
        texts: cleaned pairs by split.
        bf16: autocast, in training and in use.
    """

    model_args: ModelArguments
    data_args: DataArguments
    train_args: TrainArguments
    tokenizer: PreTrainedTokenizerFast
    encoded: Any
    texts: dict[str, Any]
    bf16: bool = True

    def with_setting(self, setting: Setting) -> Study:
        """The same study with a system's own dropout, label smoothing and learning rate."""
        dropout = dict.fromkeys(("embedding_dropout", "readout_dropout"), setting.dropout)
        train_args = dataclasses.replace(
            self.train_args,
            learning_rate=setting.learning_rate,
            label_smoothing_factor=setting.label_smoothing,
        )
        model_args = dataclasses.replace(self.model_args, **dropout)
        return dataclasses.replace(self, model_args=model_args, train_args=train_args)

    def make(self, system: str, seed: int) -> PreTrainedModel:
        """A system with fresh weights."""
        arguments = (self.model_args, self.data_args, self.train_args)
        return make_system(system, seed, *arguments, self.tokenizer)

    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches of pass after pass; the same ones for every system."""
        collate, sampler = PairCollator(), self.sampler(seed)
        while True:
            for rows in sampler:
                yield collate(self.encoded.__getitems__(rows))
            sampler.set_epoch(sampler.epoch + 1)

    def sampler(self, seed: int) -> LengthBucketBatchSampler:
        """Divides a pass into batches of like length."""
        by_tokens = self.data_args.max_tokens_per_batch
        size = None if by_tokens else self.train_args.per_device_train_batch_size
        lengths = pair_lengths(self.encoded)
        return LengthBucketBatchSampler(*lengths, batch_size=size, max_tokens=by_tokens, seed=seed)

    def autocast(self) -> torch.autocast:
        """The precision of all systems."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        """Sources and references of a split."""
        return pair_texts(self.texts[split], self.data_args.source_lang, self.data_args.target_lang)


def prepare_study(
    model_args: ModelArguments, data_args: DataArguments, train_args: TrainArguments, bf16: bool
) -> Study:
    """Read the files, train the tokenizer, encode."""
    accelerator = Accelerator(cpu=True)
    texts, dropped = load_pairs(data_args)
    tokenizer = prepare_tokenizer(accelerator, model_args, data_args, texts["train"])
    encoded = prepare_features(texts, dropped, tokenizer, data_args).encoded["train"]
    return Study(model_args, data_args, train_args, tokenizer, encoded, texts, bf16)


class Learner:
    """A system on its way.

    Args:
        study: what is common.
        model: the system; changed in place.
        total_steps: of the schedule.
        warmup: share of the steps in which the rate rises.
    """

    def __init__(
        self, study: Study, model: PreTrainedModel, total_steps: int, warmup: float
    ) -> None:
        self.study, self.model, args = study, model.train(), study.train_args
        self.optimizer = make_optimizer(model, args)
        self.scheduler = get_scheduler(
            args.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=round(warmup * total_steps),
            num_training_steps=total_steps,
        )

    def step(self, batch: Batch) -> float:
        """Take a step; returns the loss."""
        args = self.study.train_args
        with self.study.autocast():
            loss = batch_loss(self.model, batch, args.label_smoothing_factor)
        loss.backward()
        if args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        return loss.item()


def racer(study: Study, system: str) -> Contender:
    """Some steps of training, for a race; the batches are drawn from a whole pass."""
    sampler, collate = study.sampler(seed=0), PairCollator()
    chosen = [rows for _, rows in zip(range(RACE_BATCHES), sampler, strict=False)]
    batches = [collate(study.encoded.__getitems__(rows)) for rows in chosen]
    slow = dataclasses.replace(study.train_args, learning_rate=1e-4)
    study = dataclasses.replace(study, train_args=slow)
    learner = Learner(study, study.make(system, 0), 10**6, 0.0)
    return Contender(lambda: [learner.step(batch) for batch in batches], len(batches))


def race_training(study: Study, systems: Sequence[str], rounds: int = 3) -> dict[str, float]:
    """Steps of training that each system takes in a CPU second, timed in turns on one set of steps.

    The batches are the same for all.
    """
    timings = race({name: racer(study, name) for name in systems}, rounds)
    return {name: timing.rate for name, timing in timings.items()}


def learn(
    study: Study, model: PreTrainedModel, steps: int, seed: int, warmup: float
) -> dict[str, float]:
    """Train for so many steps.

    Returns:
        `cpu_seconds` of training, `epochs`, `target_tokens`, and the mean `train_loss` of the last
        tenth, smoothing included.
    """
    learner = Learner(study, model, steps, warmup)
    torch.manual_seed(seed)  # dropout
    batches, losses, tokens, rows = study.batches(seed), [], 0, 0
    began = time.process_time()
    for _ in range(steps):
        batch = next(batches)
        losses.append(learner.step(batch))
        tokens += int((batch["labels"] != IGNORED_LABEL).sum())
        rows += len(batch["labels"])
    return {
        "cpu_seconds": round(time.process_time() - began, 1),
        "epochs": round(rows / len(study.encoded), 2),
        "target_tokens": tokens,
        "train_loss": round(float(np.mean(losses[-max(1, steps // 10) :])), 4),
    }


def translate(
    study: Study, model: PreTrainedModel, sources: Sequence[str], num_beams: int
) -> list[str]:
    """Translate sentences; over-long ones are cut, as in training."""
    model.eval()
    longest = study.data_args.max_source_length
    ids = study.tokenizer(list(sources), return_attention_mask=False, verbose=False)["input_ids"]
    rows = [row if len(row) <= longest else [*row[: longest - 1], EOS_ID] for row in ids]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found, size = [""] * len(rows), study.train_args.per_device_eval_batch_size
    for start in range(0, len(order), size):
        places = order[start : start + size]
        batch = [rows[i] for i in places]
        # What has not learnt to end would write to its limit.
        most = min(study.data_args.max_target_length, 10 + 2 * max(map(len, batch)))
        with torch.inference_mode(), study.autocast():
            hypotheses = find_translations(
                model, study.tokenizer, batch, num_beams=num_beams, max_new_tokens=most
            )
        for i, alternatives in zip(places, hypotheses, strict=True):
            found[i] = alternatives[0].text
    return found


def validation_loss(study: Study, model: PreTrainedModel, most: int) -> float:
    """Mean cross-entropy of a target token on the first pairs of validation, without smoothing."""
    model.eval()
    pairs = study.texts["validation"]
    pairs = pairs.select(range(min(most, len(pairs))))
    encoded, _ = encode_pairs(pairs, study.tokenizer, study.data_args, training=False)
    order, collate = np.argsort(pair_lengths(encoded)[1]), PairCollator()
    total, tokens, size = 0.0, 0, study.train_args.per_device_eval_batch_size
    for start in range(0, len(order), size):
        batch = collate(encoded.__getitems__(order[start : start + size].tolist()))
        number = int((batch["labels"] != IGNORED_LABEL).sum())
        with torch.inference_mode(), study.autocast():
            total += number * float(batch_loss(model, batch, 0.0))
        tokens += number
    return total / tokens
