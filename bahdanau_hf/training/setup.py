"""What a run needs before its first step, and what it must share with the run it resumes."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import platform
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import GradientAccumulationPlugin, parse_choice_from_env, parse_flag_from_env
from datasets import Dataset
from huggingface_hub import get_token
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from .. import precision
from ..checkpoints import run_folder
from ..checkpoints.save_load import STATE
from ..data.sources import AnyDataset, pair_texts
from ..data.tokenization import load_tokenizer, target_vocab_size, tokenizer_settings
from ..data.vocabulary import extend_tokenizer, train_tokenizer
from ..distributed import (
    check_launch_variables,
    gather_lists,
    on_main_process,
    work_on_processors_without_gpus,
)
from ..errors import InputError, first_line
from ..files import read_json
from ..gpu.compile_ahead import compile_ahead
from ..inference.loading import check_tokenizer, checkpoint_folder, load_model, quiet_library
from ..modeling.configuration_bahdanau import BahdanauConfig
from ..modeling.modeling_bahdanau import BahdanauForConditionalGeneration
from ..version import __version__
from .arguments import DataArguments, ModelArguments, Settings, TrainArguments
from .pairs import RunPairs, data_fingerprint
from .refusals import idle_fields, refuse_contradictions, refuse_idle
from .release import repository_name
from .step import DROPOUTS
from .trackers import choose_trackers, start_trackers

if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger(__name__)

_NOT_SHAPE = {"model_name_or_path", "tokenizer_name", "model_revision"}
_TOKENIZING = (
    *("source_kind", "target_kind", "vocab_size", "min_frequency", "lowercase_source"),
    *("source_lang", "target_lang"),
)
SHAPE_FIELDS = [f.name for f in dataclasses.fields(ModelArguments) if f.name not in _NOT_SHAPE]


def start_accelerator(settings: Settings) -> Accelerator:
    """Make the accelerator that `accelerate launch` has described.

    Raises:
        InputError: a tracker or a precision that cannot be; no token for the Hub; settings that
            accelerate refuses; a way of distributing that splits the model's weights, which this
            trainer cannot save.
    """
    args = settings.train
    trackers = choose_trackers(args.report_to, Path(args.output_dir).resolve().name)
    if args.push_to_hub and not (args.hub_token or get_token()):
        raise InputError("--push_to_hub needs a token: run `hf auth login`, or set HF_TOKEN")
    check_launch_variables()
    work_on_processors_without_gpus()
    try:
        accelerator = Accelerator(
            gradient_accumulation_plugin=GradientAccumulationPlugin(_accumulated_batches(args)),
            log_with=trackers or None,
            project_dir=args.output_dir,
            step_scheduler_with_optimizer=False,
            mixed_precision=_training_precision(args),
        )
    except InputError:
        raise
    except (ImportError, ValueError) as error:  # of the environment that it reads
        raise InputError(
            f"accelerate cannot be set up so: {first_line(error)}. Run accelerate config, or look "
            "at the variables ACCELERATE_... of the environment"
        ) from error
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU"):
        raise InputError(
            f"accelerate is set to {kind}, but every process must hold the whole model here: use "
            "plain data parallel training (run accelerate config)"
        )
    return accelerator


def _accumulated_batches(args: TrainArguments) -> int:
    """Batches per step: by a flag, else as accelerate says, else by the recipe."""
    own = args.gradient_accumulation_steps
    told = int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", own))
    if told == own:
        return own
    counts, why = told, "as accelerate says"
    if "gradient_accumulation_steps" in args.by_flag:
        counts, why = own, f"not accelerate's {told}: a flag counts"
    if os.environ.get("RANK", "0") == "0":
        logger.info("%d batches per step, %s", counts, why)
    return counts


def _training_precision(args: TrainArguments) -> str:
    """The mixed precision of the run, the same on every process; says what `auto` has become."""
    state = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"))  # as the accelerator begins
    told = parse_choice_from_env("ACCELERATE_MIXED_PRECISION", "no")
    begun, is_fast = None, False
    if args.precision == "auto":
        begun = on_main_process(state, lambda: _begun_precision(args))
        is_fast_here = precision.fastest_dtype(state.device) is torch.bfloat16
        is_fast = all(gather_lists(state, [is_fast_here]))
    chosen = precision.choose_precision(args.precision, told, begun, is_fast)
    precision.check_precision(chosen, state.device)
    if told != "no":
        reason, advice = "as accelerate says", "Take --precision auto without --mixed_precision"
    elif begun is not None:
        reason, advice = "as the run was begun", "A new run may train in another precision"
    else:
        reason, advice = "as the hardware does it fastest", "Take --precision auto"
    if args.precision == "auto" and state.is_main_process:
        logger.info("Training in %s: %s", precision.precision_name(chosen), reason)
    if state.is_local_main_process:
        precision.warn_of_slow_training(chosen, state.device, advice)
    return chosen


def _begun_precision(args: TrainArguments) -> str | None:
    """The mixed precision of the run that is resumed, as its newest readable checkpoint has it."""
    wanted, found = args.resume_from_checkpoint, run_folder.list_checkpoints(Path(args.output_dir))
    for folder in reversed(found.values()) if wanted == "latest" else filter(None, [wanted]):
        try:
            return str(read_json(Path(folder, STATE))["identity"]["recipe"]["mixed_precision"])
        except (InputError, KeyError, TypeError):  # of which whoever resumes complains
            continue
    return None


def open_output_dir(accelerator: Accelerator, settings: Settings) -> Path | None:
    """Prepare the run's folder, and give the verified checkpoint that it goes on from, if any."""
    args = settings.train
    output_dir, wanted = Path(args.output_dir), args.resume_from_checkpoint

    def look() -> Path | None:
        checkpoint = None
        if wanted == "latest" and run_folder.begins_anew(output_dir):
            logger.info("There is no checkpoint in %s yet: the run starts", output_dir)
        elif wanted is not None:
            checkpoint = run_folder.find_checkpoint(output_dir, wanted)
        run_folder.prepare_output_dir(
            output_dir, overwrite=args.overwrite_output_dir, resume=checkpoint is not None
        )
        return checkpoint

    return on_main_process(accelerator, look)


def prepare_tokenizer(
    accelerator: Accelerator,
    settings: Settings,
    train_pairs: AnyDataset,
    checkpoint: Path | None = None,
) -> PreTrainedTokenizerFast:
    """Load the tokenizer of the checkpoint or as told, and extend it, or train one on the pairs.

    Of a stream of pairs the first `shuffle_buffer_size` are used. The main process does the work,
    the others receive the result.

    Raises:
        InputError: a tokenizer that cannot be loaded, or one for other languages or flags.
    """
    model_args, data_args, _ = settings
    told = (checkpoint, model_args.tokenizer_name, model_args.model_name_or_path)
    where = next((place for place in told if place is not None), None)
    revision = model_args.model_revision if model_args.tokenizer_name is None else None
    folder = None if where is None else checkpoint_folder(where, revision)

    def make() -> PreTrainedTokenizerFast:
        limit = None if isinstance(train_pairs, Dataset) else data_args.shuffle_buffer_size
        langs = (data_args.source_lang, data_args.target_lang)
        if folder is None:
            return new_tokenizer(data_args, *pair_texts(train_pairs, *langs, limit))
        tokenizer = load_tokenizer(folder)
        settled, bounds = tokenizer_settings(tokenizer), ("vocab_size", "min_frequency")
        if checkpoint is not None:  # of a size only the bound was told; old runs do not say all
            settled = {n: v for n, v in settled.items() if n != "vocab_size" and v is not None}
        if data_args.extend_vocabulary:  # the bounds are those of the extension
            settled = {n: v for n, v in settled.items() if n not in bounds}
        refuse_contradictions(settings, settled, f"the tokenizer of {where}")
        if checkpoint is None:
            tokenizer.model_max_length = data_args.max_source_length
        if checkpoint is None and data_args.extend_vocabulary:
            sources, targets = pair_texts(train_pairs, *langs, limit)
            most, least = (getattr(data_args, name) for name in bounds)
            extend_tokenizer(tokenizer, sources, targets, vocab_size=most, min_frequency=least)
        return tokenizer

    tokenizer = on_main_process(accelerator, make)
    for side in ("source_lang", "target_lang"):
        trained_for, wanted = tokenizer.init_kwargs.get(side), getattr(data_args, side)
        if trained_for is not None and trained_for != wanted:
            raise InputError(f"the tokenizer of {where} has {side} {trained_for}, not {wanted}")
    return tokenizer


def new_tokenizer(
    data: DataArguments, sources: list[str], targets: list[str]
) -> PreTrainedTokenizerFast:
    """Train the tokenizer that the arguments ask for."""
    options = {name: getattr(data, name) for name in _TOKENIZING}
    options |= {"kind": data.tokenizer_kind, "model_max_length": data.max_source_length}
    return train_tokenizer(sources, targets, **options)


def compile_kernels(accelerator: Accelerator, settings: Settings) -> threading.Thread:
    """Start to compile what a GPU runs of a new model, while the pairs are read; join it."""
    model_args, train_args = settings.model, settings.train
    shape = {name: getattr(model_args, name) for name in SHAPE_FIELDS}
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    guided = train_args.guided_attention_weight > 0
    # Another model has another shape; and no process is forked beside a thread that compiles.
    waits = model_args.model_name_or_path is not None or settings.data.preprocessing_num_workers
    return compile_ahead(None if waits else shape, accelerator.device, narrow, guided)


def prepare_model(
    settings: Settings, tokenizer: PreTrainedTokenizerFast
) -> BahdanauForConditionalGeneration:
    """Make a model for the tokenizer, or load the one to go on from; set its generation defaults.

    Raises:
        InputError: a shape that contradicts itself, a checkpoint that is missing, damaged or not
            one of ours, or one of another vocabulary than the tokenizer or shape than told.
    """
    model_args, data_args, train_args = settings
    if model_args.model_name_or_path is not None:
        name, revision = model_args.model_name_or_path, model_args.model_revision
        model = load_model(name, revision, dtype=torch.float32)
        model.config.confidence = None  # it is stated by what this training will have learnt
        shape = shape_of(model.config)
        settled = {name: value for name, value in shape.items() if name not in DROPOUTS}
        refuse_contradictions(settings, settled, f"the model of {name}")
        refuse_idle(settings, model.config)
        for name in (model_args.by_flag | model_args.by_recipe).intersection(DROPOUTS):
            setattr(model.config, name, getattr(model_args, name))
        has_grown = len(tokenizer) > model.get_input_embeddings().num_embeddings
        if data_args.extend_vocabulary and has_grown:
            with quiet_library():  # which tells at length how it fills the new rows
                model.resize_token_embeddings(len(tokenizer))
    else:
        shape = {name: getattr(model_args, name) for name in SHAPE_FIELDS}
        sizes = {"vocab_size": target_vocab_size(tokenizer), "encoder_vocab_size": len(tokenizer)}
        try:
            config = BahdanauConfig(**sizes, **shape)
        except (ValueError, StrictDataclassError) as error:
            # Without the heading and the kind that a strict check puts before its complaint.
            line = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            raise InputError(re.sub("^(Value|Type)Error: ", "", line)) from None
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


def shape_of(config: BahdanauConfig) -> dict[str, Any]:
    """A model's shape by the names of `ModelArguments`, with what `None` stands for."""
    shape = {name: getattr(config, name) for name in SHAPE_FIELDS}
    shape["attention_hidden_size"] = config.attention_hidden_size or config.hidden_size
    shape["readout_size"] = config.readout_size or config.embedding_size
    return shape


def run_settings(run: Run) -> dict[str, Any]:
    """What `settings.json` holds: each setting, `None` where it has no effect, counts, versions."""
    train, config = run.settings.train, run.bare_model.config
    used = {name: dataclasses.asdict(group) for name, group in run.settings._asdict().items()}
    del used["train"]["hub_token"]
    used["model"] |= shape_of(config)
    used["data"] |= tokenizer_settings(run.tokenizer)
    used["train"] |= {
        "gradient_accumulation_steps": run.accelerator.gradient_accumulation_steps,
        "precision": run.accelerator.mixed_precision,
        "eval_num_beams": train.eval_num_beams or 1,
        "hub_model_id": repository_name(train) if train.push_to_hub else train.hub_model_id,
    }
    idle = idle_fields(run.settings, config).keys() - {"vocab_size"}
    if "validation" in run.pairs.dropped_on_the_way:  # it was not cut off train
        idle.add("validation_split_percentage")
    for group in used.values():
        group.update(dict.fromkeys(idle & group.keys()))
    packages = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "sacrebleu")
    splits = run.pairs.texts | run.pairs.encoded
    return {
        **used,
        "versions": {
            "bahdanau_hf": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "precision": precision.precision_name(run.accelerator.mixed_precision),
        "num_parameters": run.bare_model.num_parameters(),
        "num_pairs": {name: len(v) for name, v in splits.items() if isinstance(v, Dataset)},
        "dropped": {name: lost.as_dict() for name, lost in run.pairs.dropped.items()},
    }


def start_records(run: Run) -> None:
    """Start the trackers and write `settings.json`; earlier scores no longer hold."""
    run.accelerator.wait_for_everyone()
    for name, why in idle_fields(run.settings, run.bare_model.config).items():
        if name in run.settings.train.by_recipe:
            logger.info("The recipe's %s has no effect %s", name, why)
    used = run_settings(run)
    start_trackers(run.accelerator, run.output_dir, used, run.state.step)
    if run.accelerator.is_main_process:
        run.results_file.unlink(missing_ok=True)
        run_folder.write_json(run.output_dir / "settings.json", used)


# What may change when a run goes on is not here: how long, how often to log, validate and save.
_IDENTITY = (
    *("source_lang", "target_lang", "max_source_length", "max_target_length", "streaming"),
    *("truncate_long_pairs", "pad_to_max_length", "max_tokens_per_batch", "bucket_by_length"),
    *("shuffle_buffer_size", "seed", "per_device_train_batch_size", "learning_rate", "optimizer"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("lr_scheduler_type", "num_warmup_steps", "label_smoothing_factor", "loss_reduction"),
    *("metric_for_best_model", "guided_attention_weight", "source_noise"),
)
# What decides which pairs a stream gives; of a table, the fingerprint knows.
_STREAM_IDENTITY = (
    *("dataset_name", "dataset_config_name", "chinese_script", "max_length_ratio"),
    *("max_train_samples", "validation_split_percentage"),
)


def run_identity(
    accelerator: Accelerator, settings: Settings, pairs: RunPairs, model: PreTrainedModel
) -> dict[str, Any]:
    """Everything that must be the same for a resumed run to be the same run."""
    data = settings.data
    names = _IDENTITY + (_STREAM_IDENTITY if data.streaming else ())
    splits = pairs.encoded.items()
    return {
        "world_size": accelerator.num_processes,
        "data_fingerprints": {k: data_fingerprint(v, data.train_file) for k, v in splits},
        "recipe": {
            **{name: getattr(model.config, name) for name in (*SHAPE_FIELDS, "vocab_size")},
            **{name: getattr(settings.group_of(name), name) for name in names},
            "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
            "mixed_precision": accelerator.mixed_precision,
        },
    }
