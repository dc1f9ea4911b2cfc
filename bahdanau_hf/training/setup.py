"""What a run needs before its first step: accelerator, tokenizer, model, features."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import operator
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_choice_from_env, parse_flag_from_env
from datasets import Dataset
from huggingface_hub import get_token
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedTokenizerFast

from ..checkpoints.run_folder import find_checkpoint, list_checkpoints, prepare_output_dir
from ..checkpoints.save_load import precision_begun_in
from ..data.preprocessing import AnyDataset, DroppedPairs, encode_pairs, pair_texts
from ..data.readers import pair_paths
from ..data.tokenization import load_tokenizer, target_vocab_size, train_tokenizer
from ..distributed import gather_lists, on_main_process
from ..errors import InputError
from ..inference.loading import check_tokenizer, checkpoint_location, load_model
from ..modeling.configuration_bahdanau import BahdanauConfig
from ..modeling.modeling_bahdanau import BahdanauForConditionalGeneration
from ..precision import (
    check_precision,
    choose_precision,
    fastest_dtype,
    precision_name,
    warn_of_slow_training,
)
from ..version import __version__
from .arguments import DataArguments, ModelArguments, TrainArguments
from .trackers import choose_trackers

logger = logging.getLogger(__name__)

_NOT_SHAPE = {"model_name_or_path", "tokenizer_name", "model_revision"}
SHAPE_FIELDS = [f.name for f in dataclasses.fields(ModelArguments) if f.name not in _NOT_SHAPE]
_PIECES, _PIECE_BYTES = 64, 2**16  # of a file whose digest is taken from samples


def start_accelerator(args: TrainArguments) -> Accelerator:
    """Make the accelerator that `accelerate launch` has described.

    Raises:
        InputError: a tracker that is unknown, not installed or not there; a precision that
            contradicts accelerate's or does not exist here; a way of distributing that splits the
            model's weights, which this trainer cannot save.
    """
    trackers = choose_trackers(args.report_to, Path(args.output_dir).resolve().name)
    if args.push_to_hub and not (args.hub_token or get_token()):
        raise InputError("--push_to_hub needs a token: run `hf auth login`, or set HF_TOKEN")
    accelerator = Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=trackers or None,
        project_dir=args.output_dir,
        step_scheduler_with_optimizer=False,
        mixed_precision=_training_precision(args),
    )
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU"):
        raise InputError(
            f"accelerate is set to {kind}, but every process must hold the whole model here: use "
            "plain data parallel training (run accelerate config)"
        )
    return accelerator


def _training_precision(args: TrainArguments) -> str:
    """The mixed precision of the run, the same on every process; says what `auto` has become."""
    state = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"))  # as the accelerator begins
    told = parse_choice_from_env("ACCELERATE_MIXED_PRECISION", "no")
    begun, is_fast = None, False
    if args.precision == "auto":
        begun = on_main_process(state, lambda: _begun_precision(args))
        is_fast_here = fastest_dtype(state.device) is torch.bfloat16
        is_fast = all(gather_lists(state, [is_fast_here]))
    precision = choose_precision(args.precision, told, begun, is_fast)
    check_precision(precision, state.device)
    if told != "no":
        reason, advice = "as accelerate says", "Take --precision auto without --mixed_precision"
    elif begun is not None:
        reason, advice = "as the run was begun", "A new run may train in another precision"
    else:
        reason, advice = "as the hardware does it fastest", "Take --precision auto"
    if args.precision == "auto" and state.is_main_process:
        logger.info("Training in %s: %s", precision_name(precision), reason)
    if state.is_local_main_process:
        warn_of_slow_training(precision, state.device, advice)
    return precision


def _begun_precision(args: TrainArguments) -> str | None:
    wanted = args.resume_from_checkpoint
    if wanted is None:
        return None
    newest_first = reversed(list_checkpoints(Path(args.output_dir)).values())
    return precision_begun_in(newest_first if wanted == "latest" else [Path(wanted)])


def open_output_dir(accelerator: Accelerator, args: TrainArguments) -> Path | None:
    """See that the run may write to its folder, and find what it resumes from.

    Returns:
        The checkpoint to go on from, verified; `None` for a run that starts afresh.

    Raises:
        InputError: see `prepare_output_dir` and `find_checkpoint`.
    """
    output_dir, wanted = Path(args.output_dir), args.resume_from_checkpoint

    def look() -> Path | None:
        if wanted is not None:
            checkpoint = find_checkpoint(output_dir, wanted)
        prepare_output_dir(
            output_dir, overwrite=args.overwrite_output_dir, resume=wanted is not None
        )
        return None if wanted is None else checkpoint

    return on_main_process(accelerator, look)


def prepare_tokenizer(
    accelerator: Accelerator,
    model_args: ModelArguments,
    data_args: DataArguments,
    train_pairs: AnyDataset,
    checkpoint: Path | None = None,
) -> PreTrainedTokenizerFast:
    """Load the tokenizer of the checkpoint or as told, or train one on the training pairs.

    Args:
        accelerator: the main process does the work, the others receive the result.
        model_args: `tokenizer_name`, else `model_name_or_path`, is loaded.
        data_args: kind, size and languages of a new tokenizer.
        train_pairs: cleaned pairs; of a stream the first `shuffle_buffer_size` are used.
        checkpoint: the checkpoint that the run resumes from.

    Raises:
        InputError: a tokenizer that cannot be loaded, or one for other languages.
    """
    where = checkpoint or model_args.tokenizer_name
    if where is None and model_args.model_name_or_path is not None:
        where = checkpoint_location(model_args.model_name_or_path)

    def make() -> PreTrainedTokenizerFast:
        if where is not None:
            is_model = checkpoint is None and model_args.tokenizer_name is None
            return load_tokenizer(where, model_args.model_revision if is_model else None)
        limit = None if isinstance(train_pairs, Dataset) else data_args.shuffle_buffer_size
        langs = (data_args.source_lang, data_args.target_lang)
        sources, targets = pair_texts(train_pairs, *langs, limit)
        return train_tokenizer(
            sources,
            targets,
            kind=data_args.tokenizer_kind,
            vocab_size=data_args.vocab_size,
            min_frequency=data_args.min_frequency,
            lowercase=data_args.lowercase,
            source_lang=data_args.source_lang,
            target_lang=data_args.target_lang,
            model_max_length=data_args.max_source_length,
        )

    tokenizer = on_main_process(accelerator, make)
    for side in ("source_lang", "target_lang"):
        trained_for, wanted = tokenizer.init_kwargs.get(side), getattr(data_args, side)
        if trained_for is not None and trained_for != wanted:
            raise InputError(f"the tokenizer of {where} has {side} {trained_for}, not {wanted}")
    return tokenizer


def prepare_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    train_args: TrainArguments,
    tokenizer: PreTrainedTokenizerFast,
) -> BahdanauForConditionalGeneration:
    """Make a model for the tokenizer, or load the one to go on from; set its generation defaults.

    Raises:
        InputError: a shape that contradicts itself, a checkpoint that is missing, damaged or not
            one of ours, or one whose vocabulary is not the tokenizer's.
    """
    if model_args.model_name_or_path is not None:
        name, revision = model_args.model_name_or_path, model_args.model_revision
        model = load_model(name, revision, dtype=torch.float32)
    else:
        shape = {name: getattr(model_args, name) for name in SHAPE_FIELDS}
        sizes = {"vocab_size": target_vocab_size(tokenizer), "encoder_vocab_size": len(tokenizer)}
        try:
            config = BahdanauConfig(**sizes, **shape)
        except (ValueError, StrictDataclassError) as error:
            raise InputError(_reason(error)) from None
        model = BahdanauForConditionalGeneration(config)
    check_tokenizer(model.config, tokenizer)
    ids = {
        name: getattr(model.config, name)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    }
    model.generation_config = GenerationConfig(
        max_new_tokens=data_args.max_target_length,
        num_beams=train_args.num_beams,
        length_penalty=train_args.length_penalty if train_args.num_beams > 1 else None,
        **ids,
    )
    return model


def _reason(error: Exception) -> str:
    """What a strict check complains of, without the heading and the kind that it puts before it."""
    line = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
    return line.removeprefix("ValueError: ").removeprefix("TypeError: ")


@dataclass
class RunPairs:
    """The pairs of a run: text as it is scored, and features as they are learnt from.

    Attributes:
        texts: cleaned pairs by split.
        encoded: `train` and `validation` as token ids.
        dropped_on_the_way: what reading and what encoding left out, by split.
    """

    texts: dict[str, AnyDataset]
    encoded: dict[str, AnyDataset]
    dropped_on_the_way: dict[str, list[DroppedPairs]]

    @property
    def dropped(self) -> dict[str, DroppedPairs]:
        """What was left out so far, by split; of a stream it grows as pairs are read."""
        parts = self.dropped_on_the_way
        return {name: functools.reduce(operator.add, counts) for name, counts in parts.items()}


def prepare_features(
    texts: dict[str, AnyDataset],
    dropped: dict[str, DroppedPairs],
    tokenizer: PreTrainedTokenizerFast,
    data_args: DataArguments,
) -> RunPairs:
    """Encode what is trained and validated on.

    Raises:
        InputError: no training pair is left.
    """
    encoded: dict[str, AnyDataset] = {}
    counts = {split: [lost] for split, lost in dropped.items()}
    for split in ("train", "validation"):
        encoded[split], lost = encode_pairs(
            texts[split], tokenizer, data_args, training=split == "train"
        )
        if split in counts:
            counts[split].append(lost)
    if isinstance(encoded["train"], Dataset) and not len(encoded["train"]):
        raise InputError(
            "no training pair is short enough: raise --max_source_length and --max_target_length, "
            "or add --truncate_long_pairs"
        )
    return RunPairs(texts, encoded, counts)


def dropped_table(dropped: dict[str, DroppedPairs]) -> str:
    """What was read, left out for which reason, and kept, a column for each split."""
    columns = {split: lost.as_dict() for split, lost in dropped.items()}
    names = list(next(iter(columns.values())))
    lines = [" " * 16 + "".join(f"{split:>12}" for split in columns)]
    for name in names:
        numbers = "".join(f"{column[name]:>12,}" for column in columns.values())
        lines.append(f"{name.replace('_', ' '):<16}{numbers}")
    return "\n".join(lines)


def data_fingerprint(encoded: AnyDataset, spec: str | None) -> str:
    """SHA-256 of features in their order; of a stream, of samples of the file that it reads.

    Args:
        encoded: features of a split.
        spec: the file or files that a stream reads; of a stream of the Hub nothing can be said.
    """
    if not isinstance(encoded, Dataset):
        return sample_digest(spec) if spec else "stream"
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    digests = {}
    for name in ("input_ids", "labels"):
        lengths, ids = hashlib.sha256(), hashlib.sha256()
        for batch in encoded.select_columns([name]).with_format("arrow").iter(100_000):
            lengths.update(pc.list_value_length(batch[name]).to_numpy().tobytes())
            ids.update(pc.list_flatten(batch[name]).to_numpy().tobytes())
        digests[name] = lengths.hexdigest() + ids.hexdigest()
    return hashlib.sha256("".join(digests.values()).encode()).hexdigest()


def sample_digest(spec: str) -> str:
    """SHA-256 of the sizes of the files and of pieces spread over them: quick for any size."""
    digest = hashlib.sha256()
    for path in pair_paths(spec):
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            for place in range(_PIECES):
                file.seek(max(0, size - _PIECE_BYTES) * place // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def run_settings(
    accelerator: Accelerator,
    model: BahdanauForConditionalGeneration,
    pairs: RunPairs,
    model_args: ModelArguments,
    data_args: DataArguments,
    train_args: TrainArguments,
) -> dict[str, Any]:
    """What `settings.json` holds: all that the run was told, what it counted, the versions."""
    train = dataclasses.asdict(train_args)
    del train["hub_token"]
    packages = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "sacrebleu")
    counted = {k: v for k, v in pairs.texts.items() if isinstance(v, Dataset)} | {
        k: v for k, v in pairs.encoded.items() if isinstance(v, Dataset)
    }
    return {
        "model": dataclasses.asdict(model_args),
        "data": dataclasses.asdict(data_args),
        "train": train,
        "versions": {
            "bahdanau_hf": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "precision": precision_name(accelerator.mixed_precision),
        "num_parameters": model.num_parameters(),
        "num_pairs": {name: len(split) for name, split in counted.items()},
        "dropped": {name: lost.as_dict() for name, lost in pairs.dropped.items()},
    }


# What may change when a run goes on is not here: how long, how often to log, validate and save.
_DATA_IDENTITY = (
    *("source_lang", "target_lang", "max_source_length", "max_target_length", "streaming"),
    *("truncate_long_pairs", "pad_to_max_length", "max_tokens_per_batch", "bucket_by_length"),
    *("shuffle_buffer_size",),
)
_STREAM_IDENTITY = (
    *("dataset_name", "dataset_config_name", "chinese_script", "max_length_ratio"),
    *("max_train_samples", "validation_split_percentage"),
)
_TRAIN_IDENTITY = (
    *("seed", "per_device_train_batch_size", "learning_rate", "optimizer", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type"),
    *("num_warmup_steps", "label_smoothing_factor", "loss_reduction", "metric_for_best_model"),
)


def run_identity(
    accelerator: Accelerator,
    model: BahdanauForConditionalGeneration,
    encoded: dict[str, AnyDataset],
    data_args: DataArguments,
    train_args: TrainArguments,
) -> dict[str, Any]:
    """Everything that must be the same for a resumed run to be the same run."""
    shape = {name: getattr(model.config, name) for name in SHAPE_FIELDS}
    # What decides which pairs a stream gives; of a table, the fingerprint knows.
    stream = {name: getattr(data_args, name) for name in _STREAM_IDENTITY}
    guided = train_args.guided_attention_weight
    recipe = {
        **shape,
        **(stream if data_args.streaming else {}),
        "vocab_size": model.config.vocab_size,
        **{name: getattr(data_args, name) for name in _DATA_IDENTITY},
        **{name: getattr(train_args, name) for name in _TRAIN_IDENTITY},
        **({"guided_attention_weight": guided} if guided else {}),
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        "mixed_precision": accelerator.mixed_precision,
    }
    return {
        "world_size": accelerator.num_processes,
        "data_fingerprints": {
            name: data_fingerprint(split, data_args.train_file) for name, split in encoded.items()
        },
        "recipe": recipe,
    }
