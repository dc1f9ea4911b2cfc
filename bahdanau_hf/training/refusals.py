"""Flags that cannot be meant: called otherwise here, out of bounds, at odds, or without effect.

Each is refused in one line before any work is done. Nothing here imports torch, transformers or
datasets: a mistyped flag is answered at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import checked_encoding

if TYPE_CHECKING:
    from .arguments import Settings

logger = logging.getLogger(__name__)

# Of two that say the same in different units, what a flag says takes the place of the recipe's.
ALTERNATIVES = (
    ("max_train_steps", "num_train_epochs"),
    ("max_tokens_per_batch", "per_device_train_batch_size"),
)

# What the trainers of transformers and others call otherwise, or have and this one has not.
_ELSEWHERE = {
    "fp16 fp16_full_eval": "take --precision fp16",
    "bf16 bf16_full_eval": "take --precision bf16",
    "do_train do_eval do_predict predict_with_generate load_best_model_at_end": (
        "leave it out: a run always trains, validates, keeps the best weights and scores the test "
        "split, if there is one"
    ),
    "evaluation_strategy eval_strategy save_strategy logging_strategy checkpointing_steps": (
        "take --eval_steps N, --save_steps N and --logging_steps N; without the first two a run "
        "validates and saves after each epoch"
    ),
    "lr": "take --learning_rate",
    "warmup_ratio warmup": "take --num_warmup_steps",
    "optim": "take --optimizer",
    "grad_clip clip_grad_norm gradient_clipping clip": "take --max_grad_norm",
    "gradient_checkpointing": (
        "leave it out: if memory is short, lower --per_device_train_batch_size"
    ),
    "group_by_length": "leave it out: --bucket_by_length is on",
    "max_length max_seq_length": "take --max_source_length and --max_target_length",
    "val_max_target_length generation_max_length max_new_tokens": "take --max_target_length",
    "beam_size generation_num_beams": "take --num_beams",
    "src_lang source_language": "take --source_lang",
    "tgt_lang target_language": "take --target_lang",
    "source_prefix": "leave it out: the model needs no prefix",
    "data data_path train_data train_path": "take --train_file",
    "model": "take --model_name_or_path",
    "config_name": "take --hidden_size and the other flags of the model's shape",
    "hidden_dim d_model rnn_size": "take --hidden_size",
    "embedding_dim emb_dim emb_size": "take --embedding_size",
    "num_layers n_layers num_hidden_layers": "take --encoder_layers and --decoder_layers",
    "with_tracking": "take --report_to",
    "run_name logging_dir": "leave it out: a run is called by the name of --output_dir",
    "no_cuda use_cpu cpu device num_processes local_rank deepspeed fsdp": (
        "start the run with accelerate launch, which decides where it runs"
    ),
    "trust_remote_code": "leave it out: no code of a checkpoint or data set is run",
    "cache_dir": "set HF_HOME",
}


def suggestion(name: str, known: Collection[str]) -> str:
    """A sentence on what to write instead of a flag that nobody knows; empty, if none is near."""
    for names, advice in _ELSEWHERE.items():
        if name in names.split():
            return f" {advice[0].upper()}{advice[1:]}"
    words = set(name.split("_"))
    meant = [k for k in known if words <= set(k.split("_")) or words >= set(k.split("_"))]
    if not 1 <= len(meant) <= 3:  # no flag, or too many, of the same words: a slip of a letter?
        meant = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def check_settings(settings: Settings) -> None:
    """Raise an `InputError` if what a run was told cannot be done, or has no effect.

    Bounds that concern the model's shape together are `BahdanauConfig`'s.
    """
    model, data, train = settings
    for group in settings:
        for field in dataclasses.fields(group):
            bound, value = field.metadata["bound"], getattr(group, field.name)
            if bound is not None and value is not None and not bound[0](value):
                raise InputError(f"--{field.name} must {bound[1]}, not {value}")
    if train.guided_attention_weight and data.streaming:
        raise InputError(
            "--guided_attention_weight needs all pairs at once: leave out --streaming, or set it "
            "to 0"
        )
    if data.mix_file and data.streaming:
        raise InputError("--mix_file needs all pairs at once: leave out --streaming")
    checked_encoding(data.encoding)
    if data.source_lang == data.target_lang:
        raise InputError(f"--source_lang and --target_lang are both {data.source_lang!r}")
    if data.dataset_name and data.train_file:
        raise InputError("give --dataset_name or --train_file, not both")
    for split in ("train", "validation", "test"):
        taken = getattr(data, f"{split}_file") or not data.dataset_name
        if getattr(data, f"{split}_split") and taken:
            raise InputError(f"--{split}_split needs --dataset_name, and no --{split}_file")
    if (data.source_column or data.target_column) and not (data.train_file or data.dataset_name):
        raise InputError("--source_column and --target_column need --train_file or --dataset_name")
    if (data.validation_file or data.test_file) and not (data.train_file or data.dataset_name):
        raise InputError("--validation_file and --test_file need --train_file (or --dataset_name)")
    if train.resume_from_checkpoint and train.overwrite_output_dir:
        raise InputError("give --resume_from_checkpoint or --overwrite_output_dir, not both")
    if data.extend_vocabulary and model.tokenizer_name:
        raise InputError("give --extend_vocabulary or --tokenizer_name, not both")
    if data.streaming and train.max_train_steps is None:
        raise InputError("--streaming needs --max_train_steps: a stream has no known length")
    kinds = _kinds(data)
    if "bpe" in kinds and kinds != ("bpe", "bpe"):
        raise InputError(
            f"--source_kind {kinds[0]} and --target_kind {kinds[1]} do not go together: bpe joins "
            "both sides; give the other side word-char, char or word too"
        )
    is_lowered = kinds[0] == "word-char" and not model.model_name_or_path
    if is_lowered and "lowercase_source" in data.by_flag and not data.lowercase_source:
        raise InputError("--lowercase_source no: word-char lowercases all text")
    refuse_idle(settings)


def _kinds(data: Any) -> tuple[str, str]:
    return (data.source_kind or data.tokenizer_kind, data.target_kind or data.tokenizer_kind)


def refuse_idle(settings: Settings, shape: Any = None) -> None:
    """Raise an `InputError` on a flag that has no effect; arguments as those of `idle_fields`."""
    for name, why in idle_fields(settings, shape).items():
        group = settings.group_of(name)
        if name in group.by_flag and getattr(group, name) not in (None, 0):
            raise InputError(f"--{name} has no effect {why}: leave it out")


def idle_fields(settings: Settings, shape: Any = None) -> dict[str, str]:
    """The fields that change nothing in this run, and why; `shape` is a loaded model's."""
    model, data, train = settings
    loaded, kinds = model.model_name_or_path, _kinds(data)
    may_be_bpe = loaded or kinds == ("bpe", "bpe")
    may_lower = may_be_bpe or kinds[0] == "word-char"
    no_hub = not loaded or Path(loaded).expanduser().is_dir()
    is_bundled = not (data.dataset_name or data.train_file)
    rules = [
        ("extend_vocabulary", not loaded, "without --model_name_or_path"),
        ("model_revision", no_hub, "without a repository of the Hub as --model_name_or_path"),
        ("dataset_config_name", not data.dataset_name, "without --dataset_name"),
        ("dataset_license", is_bundled, "on the bundled pairs, whose licence is known"),
        ("mix_ratio", not data.mix_file, "without --mix_file"),
        ("validation_split_percentage", bool(data.validation_file), "with --validation_file"),
        ("vocab_size", not may_be_bpe, "without --tokenizer_kind bpe"),
        ("lowercase_source", not may_lower, "without --tokenizer_kind bpe"),
        ("shuffle_buffer_size", not data.streaming, "without --streaming"),
        ("preprocessing_num_workers", data.streaming, "with --streaming"),
        ("num_train_epochs", train.max_train_steps is not None, "with --max_train_steps"),
        ("per_device_train_batch_size", data.max_tokens_per_batch, "with --max_tokens_per_batch"),
        (
            "num_warmup_steps",
            train.lr_scheduler_type == "constant",
            "with --lr_scheduler_type constant (constant_with_warmup has it)",
        ),
        ("length_penalty", train.num_beams == 1, "with --num_beams 1"),
        ("hub_private_repo hub_token", not train.push_to_hub, "without --push_to_hub"),
    ]
    if shape is None and not loaded:
        shape = model
    if shape is not None:
        layers = max(shape.encoder_layers, shape.decoder_layers)
        rules += [
            (
                "attention_hidden_size attention_dropout",
                not shape.use_attention,
                "on a model without attention",
            ),
            ("readout_size", shape.readout != "deep", "without --readout deep"),
            ("dropout", layers == 1, "with one layer on each side, as it acts between layers"),
        ]
    return {name: why for names, is_idle, why in rules if is_idle for name in names.split()}


def refuse_contradictions(settings: Settings, settled: Mapping[str, Any], whose: str) -> None:
    """Refuse flags that say otherwise than what was loaded, which cannot be changed any more.

    A recipe's values give way, with a line. The `settled` ones are by the fields' names, `None` if
    not known; `whose` they are is "the model of runs/mine", say.

    Raises:
        InputError: naming each of them.
    """
    told = {name: getattr(settings.group_of(name), name) for name in settled}
    others = [name for name, value in settled.items() if told[name] != value]
    if flags := [name for name in others if name in settings.train.by_flag]:
        has = [f"{name} {settled[name]}, not {told[name]}" for name in flags]
        raise InputError(
            f"{whose} has {', '.join(has).replace('None', 'unknown')}, which cannot be changed: "
            f"leave out {' and '.join(f'--{name}' for name in flags)}"
        )
    if recipe := [name for name in others if name in settings.train.by_recipe]:
        logger.info("%s keeps its own %s: the recipe's give way", whose, ", ".join(recipe))
