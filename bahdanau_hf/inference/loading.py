"""Loads a checkpoint of ours, or says in one line why that cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as library_logging

from ..checkpoints.run_folder import MANIFEST, list_checkpoints, verify_checkpoint
from ..data.tokenization import target_vocab_size
from ..errors import InputError, first_line
from ..files import as_mapping, is_plain_name, read_json
from ..modeling.configuration_bahdanau import BahdanauConfig
from ..modeling.modeling_bahdanau import BahdanauForConditionalGeneration
from ..precision import fastest_dtype, warn_if_emulated

_TEXTS = (
    *("config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
# What the search takes from generation_config.json without asking whether it makes sense.
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
_COUNTS = (
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "top_k"),
    *("num_return_sequences", "no_repeat_ngram_size"),
)
_FACTORS = ("length_penalty", "repetition_penalty", "temperature", "top_p")


def load_model(
    path_or_repo: str | Path,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    *,
    subfolder: str = "",
    variant: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> BahdanauForConditionalGeneration:
    """Load the model of a folder or a Hub repository; no code in it is run.

    The arguments are those of `Translator.from_pretrained`; `dtype` is one of floats.

    Raises:
        InputError: nothing there, another kind of model, or files that are damaged, missing or do
            not belong together.
    """
    hub = {"token": token, "local_files_only": local_files_only}
    folder = checkpoint_folder(path_or_repo, revision, subfolder=subfolder, variant=variant, **hub)
    weights, index = _weight_names(variant)
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in (weights, index)):
        missing.append(weights)
    if missing:
        inside = [c for c in list_checkpoints(folder).values() if (c / "config.json").is_file()]
        hint = f"; did you mean {inside[-1]}?" if inside else ""
        raise InputError(f"{path_or_repo} holds no model: no {' and no '.join(missing)}{hint}")
    where = str(folder)
    if (folder / MANIFEST).is_file():  # a checkpoint of a run knows what was written
        verify_checkpoint(folder, only=weights)
    if (folder / index).is_file():
        _check_index(folder / index)
    try:
        values = BahdanauConfig.get_config_dict(where)[0]
    except Exception as error:  # no JSON, no text: many kinds
        raise InputError(f"cannot read {where}/config.json: {first_line(error)}") from None
    kind = values.get("model_type")
    if kind != BahdanauConfig.model_type:
        raise InputError(
            f"{where} holds a model of type {kind!r}, not {BahdanauConfig.model_type!r}: give a "
            "checkpoint that was trained with this package"
        )
    try:
        config = BahdanauConfig.from_dict(values)
    except Exception as error:  # the strict checks raise their own kinds
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{where}/config.json does not make sense: {reason}") from None
    try:
        with quiet_library():
            model, report = BahdanauForConditionalGeneration.from_pretrained(
                where,
                config=config,
                dtype="auto" if dtype is None else dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported as well
                variant=variant,
            )
    except Exception as error:  # truncated, no safetensors: many kinds
        raise InputError(
            f"cannot load the weights of {where}: {first_line(error)}. The file may be damaged: "
            "copy or download the checkpoint again"
        ) from None
    # The library would fill what is missing, or of another size, with random numbers.
    report["of another size"] = [name for name, *_ in report["mismatched_keys"]]
    for what in ("missing_keys", "unexpected_keys", "of another size"):
        if names := sorted(report[what]):
            raise InputError(
                f"the weights of {where} do not fit its config.json: {len(names)} "
                f"{what.removesuffix('_keys')}, such as {names[0]}"
            )
    _check_search(where, model)
    return model


def _check_index(path: Path) -> None:
    """See that an index of weights names files of its own folder; the library opens any."""
    names = as_mapping(read_json(path).get("weight_map"))
    if not names:
        raise InputError(f"cannot read {path}: its weight_map does not name files")
    for name in names.values():
        if not is_plain_name(name):
            raise InputError(f"{path} names {name!r:.60}, which is no file of this folder")


def _check_search(where: str, model: BahdanauForConditionalGeneration) -> None:
    """See that the checkpoint's defaults for the search are numbers that it can work with."""
    settings, size, most = model.generation_config, model.config.vocab_size, 2**31
    rules = (
        (_IDS, [int], (-1, size), f"the model writes the ids 0 to {size - 1}"),
        (_COUNTS, [int], (-1, most), "it must be a whole number"),
        (_FACTORS, [int, float], (-most, most), "it must be a number"),
    )
    wrong = {}
    for names, kinds, (below, above), rule in rules:
        for name in names:
            value = getattr(settings, name)
            several = value if names is _IDS and isinstance(value, list) else [value]
            if not all(v is None or (type(v) in kinds and below < v < above) for v in several):
                wrong[name] = rule
    if settings.decoder_start_token_id is None and settings.bos_token_id is None:
        wrong["decoder_start_token_id"] = "a translation starts with an id"
    if wrong:
        name, rule = next(iter(wrong.items()))
        raise InputError(
            f"{where}/generation_config.json does not make sense: {name} is "
            f"{getattr(settings, name)!r:.60}, but {rule}"
        )


def _weight_names(variant: str | None) -> tuple[str, str]:
    """The names of the weights' file and, where they are in several, of its index."""
    infix = f".{variant}" if variant else ""
    return f"model{infix}.safetensors", f"model.safetensors.index{infix}.json"


def checkpoint_folder(
    path_or_repo: str | Path,
    revision: str | None = None,
    *,
    subfolder: str = "",
    variant: str | None = None,
    **hub: Any,
) -> Path:
    """The folder of a checkpoint: one that is here, or where a repository's was downloaded to.

    What a model and its tokenizer need is fetched unless it is here. The Hub is asked once, so that
    no network is told in less than half a minute. `hub` are `token` and `local_files_only`.

    Raises:
        InputError: no such folder, and no such repository that can be read.
    """
    where = str(path_or_repo)
    folder = Path(where).expanduser()
    if where and folder.is_dir():
        return folder / subfolder
    if where and folder.exists():
        raise InputError(f"{where} is a file; give the folder of the checkpoint")
    owner, slash, name = where.partition("/")
    try:  # only what can be a name there, `owner/name`, and is no slip in the name of a folder
        validate_repo_id(where)
        is_path = owner.startswith((".", "~")) or not (owner and slash and name)
    except HFValidationError:
        is_path = True
    if is_path or Path(owner).is_dir():
        beside = [p.name for p in folder.parent.glob("*/")] if folder.parent.is_dir() else []
        close = get_close_matches(folder.name, beside, 1) if where else []
        hint = "".join(f"; did you mean {folder.parent / name}?" for name in close)
        raise InputError(f"no such folder: {where!r}{hint}")
    weights, index = _weight_names(variant)
    files = [*_TEXTS, weights, index, weights.replace(".safetensors", "-*.safetensors")]
    wanted = [f"{subfolder}/{file}" if subfolder else file for file in files]
    try:
        copy = snapshot_download(where, revision=revision, allow_patterns=wanted, **hub)
        return Path(copy, subfolder)
    except Exception as error:  # not there, not allowed, not reachable: many kinds
        cause = error.__cause__
        reason = first_line(cause if isinstance(cause, Exception) else error)
        if isinstance(error, RepositoryNotFoundError):
            is_gated = isinstance(error, GatedRepoError)
            reason = "it is gated" if is_gated else "no such repository, or a private one"
            reason += "" if hub.get("token") else ". To be let in, log in: hf auth login"
        raise InputError(
            f"there is no folder {where}, and from the Hub it cannot be read: {reason}"
        ) from None


def check_tokenizer(config: BahdanauConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse (`InputError`) a tokenizer whose ids do not mean what the model's do.

    Compared are the number of tokens, the target part, and the ids for padding and the end.
    """
    whole, target = len(tokenizer), target_vocab_size(tokenizer)
    encoder_size = config.encoder_vocab_size or config.vocab_size
    # After `resize_token_embeddings` the decoder knows all tokens, whatever the tokenizer was told.
    if whole != encoder_size or config.vocab_size not in (target, whole):
        raise InputError(
            f"the tokenizer does not belong to the model: it has {whole} tokens, {target} of them "
            f"for the target side; the model has {encoder_size} and {config.vocab_size}"
        )
    for name in ("pad_token_id", "eos_token_id"):
        ours, theirs = getattr(config, name), getattr(tokenizer, name)
        if ours != theirs and not (isinstance(ours, list) and theirs in ours):
            raise InputError(
                f"the tokenizer does not belong to the model: its {name} is {theirs}, not {ours}"
            )


def move_model(
    model: PreTrainedModel,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> PreTrainedModel:
    """Move the model itself to a device and into a dtype; what is `None` stays as it is.

    `"auto"` is what `fastest_dtype` names for the device. `"int8"` leaves the weights as they are
    and multiplies in 8 bits (`use_int8` of the model), any other dtype ends that.

    Raises:
        InputError: no such device here, no such dtype, or one that this device does not have.
    """
    if isinstance(dtype, str) and dtype != "auto":
        dtype = getattr(torch, dtype, dtype)
    int8 = dtype == torch.int8
    is_float = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    if dtype not in (None, "auto") and not int8 and not is_float:
        raise InputError(
            f"a model cannot run in {dtype!r}: take auto, float32, bfloat16, float16 or int8"
        )
    try:
        if dtype == "auto":
            model = model.to(device=device)
            dtype = fastest_dtype(model.device)
        model = model.to(device=device, dtype=None if int8 else dtype)
    except (RuntimeError, AssertionError) as error:  # unknown name, or no such device here
        raise InputError(f"cannot run on device {str(device)!r}: {first_line(error)}") from None
    warn_if_emulated(model.dtype, model.device)
    if int8 or (dtype is not None and model.int8):
        try:
            model.use_int8(int8)
        except ValueError as error:
            raise InputError(f"cannot run in int8: {error}") from None
    return model


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keep the library from printing a table of keys; we say the same in one line."""
    before = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(before)
