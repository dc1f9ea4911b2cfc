"""What a run can be told: three dataclasses, filled from a recipe first and flags after it.

Flags carry the names of transformers' `run_translation_no_trainer.py` wherever the thing exists
there. A key that no field knows is an error, in the recipe and on the command line alike. Nothing
here imports torch, transformers or datasets: `--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from ..errors import InputError
from .refusals import ALTERNATIVES, check_settings, suggestion

RECIPES = Path(__file__).parents[1] / "recipes"
NEEDED = "<needed>"  # in a recipe: a flag has to tell it
YES, NO = {"yes", "true", "t", "y", "1"}, {"no", "false", "f", "n", "0"}

Bound = tuple[Callable[[float], bool], str]
POSITIVE: Bound = (lambda value: value > 0, "be greater than 0")
NOT_NEGATIVE: Bound = (lambda value: value >= 0, "not be negative")
SHARE: Bound = (lambda value: 0 <= value < 1, "be in [0, 1)")
PERCENTAGE: Bound = (lambda value: 0 < value < 100, "be between 0 and 100")
FINITE: Bound = (math.isfinite, "be a finite number")
SEVERAL: Bound = (lambda value: value == 0 or value > 1, "be 0 or at least 2")


def _field(default: Any, text: str, bound: Bound | None = None, choices: str = "") -> Any:
    metadata = {"help": text, "bound": bound, "choices": choices.split() or None}
    return field(default=default, metadata=metadata)


class _Told:
    """Which fields the command line has told, and which the recipe alone; others are defaults."""

    by_flag: frozenset[str] = frozenset()
    by_recipe: frozenset[str] = frozenset()


@dataclass
class ModelArguments(_Told):
    """The model's shape; every field but the first three goes into `BahdanauConfig` by its name."""

    model_name_or_path: str | None = _field(None, "checkpoint of this package to start from")
    tokenizer_name: str | None = _field(None, "tokenizer folder or repository; default: train one")
    model_revision: str = _field("main", "revision of model_name_or_path on the Hub")
    embedding_size: int = _field(256, "width of the word embeddings, both sides")
    hidden_size: int = _field(256, "width of a GRU layer, each direction")
    attention_hidden_size: int | None = _field(None, "width of the attention; default: hidden_size")
    encoder_layers: int = _field(1, "GRU layers in the encoder")
    decoder_layers: int = _field(1, "GRU layers in the decoder")
    bidirectional_encoder: bool = _field(True, "encode the source in both directions")
    use_attention: bool = _field(True, "no: plain seq2seq without attention, as a baseline")
    conditional_gru: bool = _field(False, "let the attention use the previous word")
    readout: str = _field("linear", "output layer; deep: the paper's maxout", None, "linear deep")
    readout_size: int | None = _field(None, "width of the deep readout; default: embedding_size")
    dropout: float = _field(0.1, "dropout between recurrent layers, in [0, 1)", SHARE)
    embedding_dropout: float = _field(0.0, "dropout on embeddings, in [0, 1)", SHARE)
    readout_dropout: float = _field(0.0, "dropout before the output layer, in [0, 1)", SHARE)
    attention_dropout: float = _field(0.0, "dropout on attention weights, in [0, 1)", SHARE)
    tie_word_embeddings: bool = _field(False, "share decoder embedding and output layer")
    encoder_reads_padding: bool = _field(False, "encode padding too, as the tutorial's model does")
    initializer: str = _field(
        "xavier",
        "initial weights; tutorial: xavier in the GRUs alone; orthogonal: in recurrent matrices",
        choices="xavier tutorial orthogonal",
    )
    embedding_initializer_range: float = _field(1.0, "standard deviation of the initial embeddings")


@dataclass
class DataArguments(_Told):
    """Where pairs come from, and how they are cleaned, tokenized and batched."""

    dataset_name: str | None = _field(None, "data set on the Hub; default: the bundled pairs")
    dataset_config_name: str | None = _field(None, "configuration of the data set, such as en-zh")
    dataset_license: str | None = _field(None, "the pairs' licence, for the card: cc-by-2.0, ...")
    train_file: str | None = _field(
        None,
        "files of pairs: a.tsv,b.jsonl.gz or part*.tmx; or two aligned text files: a.en,a.zh",
    )
    validation_file: str | None = _field(None, "like train_file; default: a part of train")
    test_file: str | None = _field(None, "like train_file; default: no test")
    mix_file: str | None = _field(
        None, "like train_file: other kinds of text, mixed in so that they are not forgotten"
    )
    mix_ratio: float = _field(
        1.0, "pairs of mix_file that are drawn for each other training pair", POSITIVE
    )
    encoding: str | None = _field(None, "encoding of the files of text; default: utf-8")
    skip_bad_rows: bool = _field(False, "leave out and count rows that cannot be read")
    unescape_html: bool = _field(False, "replace HTML entities such as &amp; by characters")
    train_split: str | None = _field(None, "dataset_name's split to train on; default: train")
    validation_split: str | None = _field(None, "dataset_name's split to validate on")
    test_split: str | None = _field(None, "dataset_name's split to test on")
    source_column: str | None = _field(
        None, "name or number of the source's column; default: found by header, names, script"
    )
    target_column: str | None = _field(None, "the target's column, like source_column")
    streaming: bool = _field(False, "stream the training pairs instead of loading them all")
    source_lang: str = _field("en", "language code of the source")
    target_lang: str = _field("zh", "language code of the target")
    chinese_script: str = _field(
        "keep", "convert Chinese to one script (extra [zh])", None, "keep simplified traditional"
    )
    max_source_length: int = _field(
        128, "tokens; longer sources are dropped in training and truncated in use", POSITIVE
    )
    max_target_length: int = _field(128, "tokens; longer targets are dropped in training", POSITIVE)
    truncate_long_pairs: bool = _field(False, "truncate long pairs instead of dropping them")
    max_length_ratio: float = _field(9.0, "drop pairs with a larger ratio of characters", POSITIVE)
    max_train_samples: int | None = _field(None, "use only the first N training pairs", POSITIVE)
    max_eval_samples: int | None = _field(
        None, "use only the first N pairs of validation and of test", POSITIVE
    )
    validation_split_percentage: float = _field(
        5.0, "percentage of train used for validation if there is no validation set", PERCENTAGE
    )
    preprocessing_num_workers: int | None = _field(
        None, "processes that clean and tokenize", POSITIVE
    )
    tokenizer_kind: str = _field(
        "bpe",
        "kind of tokens on both sides; word-char: the tutorial's",
        None,
        "bpe word-char char word",
    )
    source_kind: str | None = _field(
        None, "the source's kind, if it differs from tokenizer_kind", None, "word-char char word"
    )
    target_kind: str | None = _field(
        None, "the target's kind, if it differs from tokenizer_kind", None, "word-char char word"
    )
    vocab_size: int = _field(8000, "maximum size of the joint vocabulary (bpe)", POSITIVE)
    min_frequency: int = _field(2, "rarer words or characters become unknown or bytes", POSITIVE)
    lowercase_source: bool = _field(False, "read the source in lower case (bpe)")
    extend_vocabulary: bool = _field(
        False, "add frequent words of the pairs to the model's vocabulary, up to vocab_size entries"
    )
    max_tokens_per_batch: int | None = _field(
        None, "fill batches by tokens, padding included, instead of by pairs", POSITIVE
    )
    bucket_by_length: bool = _field(True, "batch pairs of similar length; no: shuffle only")
    shuffle_buffer_size: int = _field(10_000, "pairs in a stream's shuffle buffer", POSITIVE)
    pad_to_max_length: bool = _field(False, "pad every batch to the maximum lengths (tutorial)")


@dataclass
class TrainArguments(_Told):
    """How to train, save, score and publish."""

    output_dir: str = _field("runs/default", "folder for checkpoints, scores and the report")
    overwrite_output_dir: bool = _field(False, "remove the run that output_dir holds")
    resume_from_checkpoint: str | None = _field(
        None, "a checkpoint folder of the run, or 'latest', which starts a run that has none yet"
    )
    seed: int = _field(42, "seed of initialization, order of batches and dropout", NOT_NEGATIVE)
    per_device_train_batch_size: int = _field(64, "pairs in a batch on each process", POSITIVE)
    per_device_eval_batch_size: int = _field(128, "pairs in a batch in evaluation", POSITIVE)
    gradient_accumulation_steps: int = _field(1, "batches per optimizer step", POSITIVE)
    precision: str | None = _field(
        None,
        "mixed precision; auto: what accelerate is set to, else bf16 where the hardware has it; "
        "default: what accelerate is set to",
        choices="auto no bf16 fp16",
    )
    num_train_epochs: float = _field(10.0, "epochs", POSITIVE)
    max_train_steps: int | None = _field(None, "number of steps; overrides epochs", POSITIVE)
    max_train_seconds: float | None = _field(
        None, "stop after this wall-clock time, that before resuming included", POSITIVE
    )
    learning_rate: float = _field(1e-3, "peak learning rate", POSITIVE)
    optimizer: str = _field("adamw", "adam: the tutorial's", None, "adamw adam")
    weight_decay: float = _field(0.0, "AdamW's weight decay (matrices only)", NOT_NEGATIVE)
    adam_beta1: float = _field(0.9, "Adam's first moment decay", SHARE)
    adam_beta2: float = _field(0.999, "Adam's second moment decay", SHARE)
    adam_epsilon: float = _field(1e-8, "Adam's epsilon", NOT_NEGATIVE)
    max_grad_norm: float = _field(1.0, "clip gradients to this norm; 0: off", NOT_NEGATIVE)
    lr_scheduler_type: str = _field(
        "linear",
        "learning rate schedule",
        choices="linear cosine constant constant_with_warmup inverse_sqrt",
    )
    num_warmup_steps: int = _field(0, "steps of warm-up to the peak learning rate", NOT_NEGATIVE)
    label_smoothing_factor: float = _field(0.0, "label smoothing, in [0, 1)", SHARE)
    guided_attention_weight: float = _field(
        0.0, "weight of a loss that trains attention on a statistical aligner's links", NOT_NEGATIVE
    )
    source_noise: float = _field(
        0.0,
        "share of sources without final punctuation, and share with a typing error, in [0, 1)",
        SHARE,
    )
    loss_reduction: str = _field(
        "tokens",
        "tokens: mean over the step's target tokens; tutorial: per-sentence mean over the padded "
        "length, summed over the batch",
        choices="tokens tutorial",
    )
    logging_steps: int = _field(50, "steps between lines of metrics.jsonl", POSITIVE)
    eval_steps: int | None = _field(None, "steps between evaluations; default: an epoch", POSITIVE)
    save_steps: int | None = _field(
        None, "steps between checkpoints; default: with each evaluation", POSITIVE
    )
    save_total_limit: int = _field(3, "newest checkpoints to keep, besides the best", POSITIVE)
    metric_for_best_model: str = _field(
        "bleu", "what chooses the best weights; below BLEU 1 the loss", None, "bleu loss"
    )
    early_stopping_patience: int | None = _field(
        None, "stop after N evaluations without improvement", POSITIVE
    )
    average_last_checkpoints: int = _field(
        0, "average the weights of the last N evaluations, if validation improves", SEVERAL
    )
    num_beams: int = _field(1, "beams at the end of training and in use", POSITIVE)
    eval_num_beams: int | None = _field(None, "beams during training; default: 1", POSITIVE)
    length_penalty: float = _field(1.0, "beam search: above 1 prefers longer output", FINITE)
    max_eval_translations: int | None = _field(
        None, "during training translate only the first N pairs of validation", POSITIVE
    )
    dataloader_num_workers: int = _field(0, "processes that collate batches", NOT_NEGATIVE)
    skip_test: bool = _field(False, "do not translate and score the test set at the end")
    report_to: str = _field(
        "none", "trackers, comma-separated: none, tensorboard, trackio, wandb, visdom, ..."
    )
    push_to_hub: bool = _field(False, "push to the Hub after each evaluation and at the end")
    hub_model_id: str | None = _field(None, "repository name; default: name of output_dir")
    hub_private_repo: bool = _field(False, "create the repository as private")
    hub_token: str | None = _field(None, "token for the Hub; default: the stored one")


class Settings(NamedTuple):
    """All that a run was told."""

    model: ModelArguments
    data: DataArguments
    train: TrainArguments

    def group_of(self, name: str) -> Any:
        """The group that has a field of this name."""
        return next(group for group in self if hasattr(group, name))


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one-line `InputError`s."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. Run with --help to see every flag.")


GROUPS = {"model": ModelArguments, "data": DataArguments, "training": TrainArguments}
FIELDS = {f.name: f for group in GROUPS.values() for f in dataclasses.fields(group)}


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(recipe: str | Path) -> list[str]:
    """Turn a YAML file, or a recipe of the package by its name, into flags, in the file's order.

    Raises:
        InputError: no such recipe, not a flat mapping, or a key that no field knows.
    """
    path = RECIPES / f"{recipe}.yaml" if str(recipe) in recipe_names() else Path(recipe)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read the recipe {recipe}: {error.strerror}. Give a YAML file, or one of the "
            f"recipes that come with the package: {', '.join(recipe_names())}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = str(error).replace("\n", " ")
        raise InputError(f"the recipe {path} is not valid YAML: {where}") from None
    if not isinstance(values, dict | None):
        raise InputError(f"the recipe {path} must be lines of 'name: value'")
    flags: list[str] = []
    for name, value in (values or {}).items():
        if name not in FIELDS:
            raise InputError(f"unknown key {name!r} in {path}.{suggestion(str(name), FIELDS)}")
        if value is False and "no" in (FIELDS[name].metadata["choices"] or ()):
            value = "no"  # which YAML takes for false
        if isinstance(value, dict | list):
            raise InputError(f"{path}: {name} takes one value, not {type(value).__name__}")
        if value is not None:
            flags.append(f"--{name}={value}")
    return flags


def parse_arguments(arguments: Sequence[str], program: str = "bahdanau-hf train") -> Settings:
    """Parse `[RECIPE] [flags]`; a flag overrides the recipe. `--help` names the `program`.

    Raises:
        InputError: unknown flag or key, a value of the wrong type, or a refusal of ours.
    """
    arguments = [_underscored(argument) for argument in arguments]
    has_recipe = arguments and not arguments[0].startswith("-")
    recipe = read_recipe(arguments.pop(0)) if has_recipe else []
    parser = _parser(program)
    by_recipe = vars(parser.parse_known_args(recipe)[0])
    namespace, rest = parser.parse_known_args(arguments)
    if rest:
        is_flag = rest[0].startswith("-")
        hint = suggestion(rest[0].lstrip("-").split("=")[0], FIELDS) if is_flag else ""
        raise InputError(f"unknown argument {rest[0]!r}.{hint}")
    by_flag = vars(namespace)
    for pair in ALTERNATIVES:
        for one, other in (pair, pair[::-1]):
            if one in by_flag and other not in by_flag:
                by_recipe.pop(other, None)
    values = by_recipe | by_flag
    if needed := [f"--{name}" for name, value in values.items() if value == NEEDED]:
        raise InputError(f"this recipe needs {' and '.join(needed)}")
    groups: list[Any] = []
    for kind in GROUPS.values():
        group = kind(**{name: value for name, value in values.items() if hasattr(kind, name)})
        group.by_flag, group.by_recipe = frozenset(by_flag), frozenset(by_recipe.keys() - by_flag)
        groups.append(group)
    settings = Settings(*groups)
    check_settings(settings)
    return settings


def _parser(program: str) -> argparse.ArgumentParser:
    """A flag for every field, in groups."""
    parser = _Parser(
        usage=f"{program} [RECIPE] [--flag value ...]",
        description="Train a Bahdanau translation model. RECIPE is a YAML file or one of "
        f"{', '.join(recipe_names())}; flags override it.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # what is there afterwards was told
    )
    kinds: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": truth}
    metavars = {int: "N", float: "X", str: "TEXT", truth: "yes|no"}
    for name, dataclass_type in GROUPS.items():
        group = parser.add_argument_group(name)
        for f in dataclasses.fields(dataclass_type):
            convert = kinds[str(f.type).removesuffix(" | None")]
            shown = "" if f.default is None else f" (default: {f.default})"
            choices, text = f.metadata["choices"], f.metadata["help"] + shown
            options = {"choices": choices} if choices else {"metavar": metavars[convert]}
            if convert is truth:  # `--flag` alone means yes
                options |= {"nargs": "?", "const": True}
            group.add_argument(f"--{f.name}", type=convert, help=text, **options)
            if f.default is True:
                group.add_argument(
                    f"--no_{f.name}", dest=f.name, action="store_false", help=argparse.SUPPRESS
                )
    return parser


def truth(text: str) -> bool:
    """Read yes or no, true or false, 1 or 0."""
    if text.lower() not in YES | NO:
        raise argparse.ArgumentTypeError(f"must be yes or no, not {text!r}")
    return text.lower() in YES


def _underscored(argument: str) -> str:
    """`--learning-rate=1` as `--learning_rate=1`."""
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument
