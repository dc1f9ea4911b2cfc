"""What a run can be told: three dataclasses, filled from a YAML recipe first and flags after it.

Flags carry the names of transformers' `run_translation_no_trainer.py` wherever the thing exists
there. A key that no field knows is an error, in the recipe and on the command line alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from ..errors import InputError


def _field(default: Any, text: str, choices: Sequence[str] | None = None) -> Any:
    metadata: dict[str, Any] = {"help": text}
    if choices is not None:
        metadata["choices"] = list(choices)
    return field(default=default, metadata=metadata)


@dataclass
class ModelArguments:
    """The model's shape; every field but the first three goes into `BahdanauConfig` by its name."""

    model_name_or_path: str | None = _field(None, "go on from this checkpoint of ours")
    tokenizer_name: str | None = _field(None, "tokenizer folder or repository; default: train one")
    model_revision: str = _field("main", "revision of model_name_or_path on the Hub")
    embedding_size: int = _field(256, "width of the word embeddings, both sides")
    hidden_size: int = _field(256, "width of a GRU layer, each direction")
    attention_hidden_size: int | None = _field(None, "width of the attention; default hidden_size")
    encoder_layers: int = _field(1, "GRU layers in the encoder")
    decoder_layers: int = _field(1, "GRU layers in the decoder")
    bidirectional_encoder: bool = _field(True, "read the source in both directions")
    use_attention: bool = _field(True, "false: the plain seq2seq, the baseline to beat")
    readout: str = _field(
        "linear", "output layer: linear, or the paper's deep maxout", ["linear", "deep"]
    )
    readout_size: int | None = _field(None, "width of the deep readout; default embedding_size")
    dropout: float = _field(0.1, "dropout between recurrent layers, in [0, 1)")
    embedding_dropout: float = _field(0.0, "dropout on embeddings, in [0, 1)")
    readout_dropout: float = _field(0.0, "dropout before the output layer, in [0, 1)")
    attention_dropout: float = _field(0.0, "dropout on attention weights, in [0, 1)")
    tie_word_embeddings: bool = _field(False, "share decoder embedding and output layer")
    encoder_reads_padding: bool = _field(False, "only for checkpoints trained the tutorial's way")
    initializer: str = _field(
        "xavier",
        "xavier matrices, xavier in the GRUs alone (the tutorial's), or orthogonal recurrent ones",
        ["xavier", "tutorial", "orthogonal"],
    )
    embedding_initializer_range: float = _field(1.0, "standard deviation of the first embeddings")


@dataclass
class DataArguments:
    """Where pairs come from and what becomes of them on the way to the model."""

    dataset_name: str | None = _field(None, "data set on the Hub; default: the bundled pairs")
    dataset_config_name: str | None = _field(None, "its configuration, such as en-zh")
    dataset_license: str | None = _field(None, "licence of the pairs, for the card: cc-by-2.0, ...")
    train_file: str | None = _field(
        None,
        "TSV, CSV, JSON, JSON Lines or Parquet, plain or gzip; or two text files, comma between",
    )
    validation_file: str | None = _field(None, "as train_file; default: cut from train by hash")
    test_file: str | None = _field(None, "as train_file; default: none is scored")
    streaming: bool = _field(False, "read the training pairs as a stream, never all at once")
    source_lang: str = _field("en", "language code of the source")
    target_lang: str = _field("zh", "language code of the target")
    chinese_script: str = _field(
        "keep", "turn Chinese into one script (extra [zh])", ["keep", "simplified", "traditional"]
    )
    max_source_length: int = _field(
        128, "longer sources are dropped in training, cut in use; tokens"
    )
    max_target_length: int = _field(128, "longer targets are dropped in training; tokens")
    truncate_long_pairs: bool = _field(False, "cut over-long pairs instead of dropping them")
    max_length_ratio: float = _field(9.0, "pairs more unequal than this are dropped (characters)")
    max_train_samples: int | None = _field(None, "use only the first so many training pairs")
    max_eval_samples: int | None = _field(
        None, "use only the first so many pairs of a held-out split"
    )
    validation_split_percentage: float = _field(
        5.0, "share of train cut for validation, if none is given"
    )
    preprocessing_num_workers: int | None = _field(None, "processes for reading and encoding")
    tokenizer_kind: str = _field("bpe", "bpe, or word-char (the tutorial's)", ["bpe", "word-char"])
    vocab_size: int = _field(8000, "entries of the joint vocabulary, upper bound (bpe)")
    min_frequency: int = _field(2, "rarer words or characters become unknown or bytes")
    lowercase: bool = _field(False, "bpe: turn all text into lower case")
    max_tokens_per_batch: int | None = _field(None, "bucket by padded tokens instead of by pairs")
    bucket_by_length: bool = _field(True, "batches of pairs of like length; false: shuffled only")
    shuffle_buffer_size: int = _field(10_000, "pairs held while shuffling a stream")
    pad_to_max_length: bool = _field(
        False, "pad every batch to the maximum lengths (the tutorial's way)"
    )


@dataclass
class TrainArguments:
    """How to train, save, score and publish."""

    output_dir: str = _field("runs/default", "where checkpoints, scores and the report go")
    overwrite_output_dir: bool = _field(False, "start afresh in an output_dir that holds a run")
    resume_from_checkpoint: str | None = _field(None, "a checkpoint folder of a run, or 'latest'")
    seed: int = _field(42, "fixes initialisation, order of batches and dropout")
    per_device_train_batch_size: int = _field(64, "pairs in a batch on each process")
    per_device_eval_batch_size: int = _field(128, "pairs in a batch of validation and test")
    gradient_accumulation_steps: int = _field(1, "batches whose gradients make one step")
    precision: str | None = _field(
        None,
        "mixed precision: bf16, fp16, no, or auto: bf16 where the hardware has it, unless "
        "accelerate says another; default: what accelerate says",
        ["auto", "no", "bf16", "fp16"],
    )
    num_train_epochs: float = _field(10.0, "passes over the training pairs")
    max_train_steps: int | None = _field(None, "stop after so many steps; overrides epochs")
    max_train_seconds: float | None = _field(
        None, "stop training after so many seconds of wall clock, resumed time included"
    )
    learning_rate: float = _field(1e-3, "peak learning rate")
    optimizer: str = _field("adamw", "adamw or adam (the tutorial's)", ["adamw", "adam"])
    weight_decay: float = _field(0.0, "AdamW's decoupled weight decay (matrices only)")
    adam_beta1: float = _field(0.9, "Adam's first moment decay")
    adam_beta2: float = _field(0.999, "Adam's second moment decay")
    adam_epsilon: float = _field(1e-8, "Adam's epsilon")
    max_grad_norm: float = _field(1.0, "gradients are clipped to this norm; 0 turns it off")
    lr_scheduler_type: str = _field(
        "linear",
        "schedule",
        ["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"],
    )
    num_warmup_steps: int = _field(0, "steps in which the rate rises to its peak")
    label_smoothing_factor: float = _field(
        0.0, "share of probability spread over all words, in [0, 1)"
    )
    guided_attention_weight: float = _field(
        0.0, "let the attention also learn a statistical aligner's links, so strongly; 0: not"
    )
    loss_reduction: str = _field(
        "tokens",
        "tokens: sum over the step's target tokens divided by their number; "
        "tutorial: per-sentence mean over padded length, summed over the batch",
        ["tokens", "tutorial"],
    )
    logging_steps: int = _field(50, "steps between lines of metrics.jsonl")
    eval_steps: int | None = _field(None, "steps between validations; default: each epoch")
    save_steps: int | None = _field(None, "steps between checkpoints; default: at each validation")
    save_total_limit: int = _field(3, "newest checkpoints kept (the best one besides)")
    metric_for_best_model: str = _field("bleu", "bleu or loss, on validation", ["bleu", "loss"])
    early_stopping_patience: int | None = _field(None, "validations without gain before stopping")
    average_last_checkpoints: int = _field(
        0, "average the weights of the last k validations at the end, if validation agrees"
    )
    num_beams: int = _field(1, "beams for validation, test and the saved generation defaults")
    eval_num_beams: int | None = _field(
        None, "beams during training; default 1, whatever num_beams"
    )
    length_penalty: float = _field(1.0, "beam search: > 1 prefers longer output")
    max_eval_translations: int | None = _field(
        None, "translate only so many validation pairs during training"
    )
    dataloader_num_workers: int = _field(0, "processes that collate batches")
    skip_test: bool = _field(False, "do not translate and score the test split at the end")
    report_to: str = _field(
        "none", "trackers: none, tensorboard, trackio, wandb, visdom, ...; comma between"
    )
    push_to_hub: bool = _field(False, "publish at each validation and at the end")
    hub_model_id: str | None = _field(None, "repository name; default: name of output_dir")
    hub_private_repo: bool = _field(False, "create the repository as private")
    hub_token: str | None = _field(None, "token for the Hub; default: the stored one")


class _Parser(HfArgumentParser):
    """An `HfArgumentParser` whose complaints are one-line `InputError`s."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. Run with --help to see every flag.")


def _fields() -> dict[str, dataclasses.Field[Any]]:
    groups = (ModelArguments, DataArguments, TrainArguments)
    return {f.name: f for group in groups for f in dataclasses.fields(group)}


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def read_recipe(path: str | Path) -> list[str]:
    """Turn a YAML recipe into flags, in the file's order.

    Raises:
        InputError: no such file, not a flat mapping, or a key that no field knows.
    """
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = str(error).replace("\n", " ")
        raise InputError(f"the recipe {path} is not valid YAML: {where}") from None
    if recipe is None:
        return []
    if not isinstance(recipe, dict):
        raise InputError(f"the recipe {path} must be lines of 'name: value'")
    known = _fields()
    flags: list[str] = []
    for name, value in recipe.items():
        if name not in known:
            raise InputError(f"unknown key {name!r} in {path}.{_suggestion(str(name), [*known])}")
        if value is False and "no" in known[name].metadata.get("choices", ()):
            value = "no"  # which YAML takes for false
        if isinstance(value, dict | list):
            raise InputError(f"{path}: {name} takes one value, not {type(value).__name__}")
        if value is not None:
            flags.append(f"--{name}={value}")
    return flags


def parse_arguments(
    arguments: Sequence[str],
) -> tuple[ModelArguments, DataArguments, TrainArguments]:
    """Parse `[recipe.yaml] [flags]`; a flag overrides the recipe.

    Raises:
        InputError: unknown flag or key, a value of the wrong type, or sizes that make no sense.
    """
    arguments = list(arguments)
    recipe: list[str] = []
    if arguments and not arguments[0].startswith("-"):
        recipe = read_recipe(arguments.pop(0))
    parser = _Parser(
        (ModelArguments, DataArguments, TrainArguments),
        usage="train.py [recipe.yaml] [--flag value ...]",
        description="Train a Bahdanau translation model. Flags override the recipe.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    model, data, train, rest = parser.parse_args_into_dataclasses(
        recipe + arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if rest:
        known = list(_fields())
        name = rest[0].lstrip("-").split("=")[0].replace("-", "_")
        hint = _suggestion(name, known) if rest[0].startswith("-") else ""
        raise InputError(f"unknown argument {rest[0]!r}.{hint}")
    _check(model, data, train)
    return model, data, train


_POSITIVE = [
    "max_source_length",
    "max_target_length",
    "vocab_size",
    "min_frequency",
    "shuffle_buffer_size",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "logging_steps",
    "save_total_limit",
    "num_beams",
    "max_train_samples",
    "max_eval_samples",
    "max_tokens_per_batch",
    "max_train_steps",
    "max_train_seconds",
    "eval_steps",
    "save_steps",
    "early_stopping_patience",
    "eval_num_beams",
    "max_eval_translations",
    "preprocessing_num_workers",
    "max_length_ratio",
    "learning_rate",
]
_NOT_NEGATIVE = [
    "weight_decay",
    "guided_attention_weight",
    "adam_epsilon",
    "max_grad_norm",
    "num_warmup_steps",
    "average_last_checkpoints",
    "dataloader_num_workers",
    "seed",
]


def _check(model: ModelArguments, data: DataArguments, train: TrainArguments) -> None:
    """Bounds that concern the run; those of the model are `BahdanauConfig`'s."""
    values = {**vars(data), **vars(train)}
    for name in _POSITIVE:
        if values[name] is not None and not values[name] > 0:
            raise InputError(f"--{name} must be greater than 0, not {values[name]}")
    for name in _NOT_NEGATIVE:
        if not values[name] >= 0:
            raise InputError(f"--{name} must not be negative, not {values[name]}")
    if not 0 <= train.label_smoothing_factor < 1:
        raise InputError(
            f"--label_smoothing_factor must be in [0, 1), not {train.label_smoothing_factor}"
        )
    if train.guided_attention_weight and data.streaming:
        raise InputError(
            "--guided_attention_weight needs all pairs at once: leave out --streaming, or have it "
            "at 0"
        )
    if not 0 < data.validation_split_percentage < 100:
        raise InputError(
            "--validation_split_percentage must be between 0 and 100, "
            f"not {data.validation_split_percentage}"
        )
    if data.source_lang == data.target_lang:
        raise InputError(f"--source_lang and --target_lang are both {data.source_lang!r}")
    if data.dataset_name and data.train_file:
        raise InputError("give --dataset_name or --train_file, not both")
    if (data.validation_file or data.test_file) and not (data.train_file or data.dataset_name):
        raise InputError("--validation_file and --test_file need --train_file (or --dataset_name)")
    if train.resume_from_checkpoint and train.overwrite_output_dir:
        raise InputError("give --resume_from_checkpoint or --overwrite_output_dir, not both")
    if train.num_warmup_steps and train.lr_scheduler_type == "constant":
        raise InputError(
            "--num_warmup_steps needs another --lr_scheduler_type, such as constant_with_warmup"
        )
    if data.streaming and train.max_train_steps is None:
        raise InputError("--streaming needs --max_train_steps: a stream has no known length")
