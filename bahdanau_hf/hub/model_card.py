"""The card of a checkpoint: `README.md`, filled from the files that its run has left."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import InputError
from ..files import as_mapping, is_number, read_json, write_whole
from ..languages import EXAMPLES, base_language, language_name, language_of
from ..metrics.analysis import group_tables
from ..metrics.translation import FEW_SENTENCES, few_sentences

REPO_PLACEHOLDER = "OWNER/NAME"
"""Stands in a card for the repository until it is pushed to one."""

_Json = Mapping[str, Any]
_ATTENTION_MAPS = ("alignment.svg", "alignment.png")
_SPLITS = {"test": "test", "validation": "validation (the weights were chosen by it)"}
_METRICS = {"bleu": "BLEU", "chrf": "chrF"}
_PROCEDURE = {
    "train": {
        "optimizer": "optimiser",
        "learning_rate": "peak learning rate",
        "lr_scheduler_type": "schedule",
        "num_warmup_steps": "warm-up, steps",
        "weight_decay": "weight decay",
        "max_grad_norm": "gradient norm clipped to",
        "label_smoothing_factor": "label smoothing",
        "guided_attention_weight": "guided attention, weight",
        "source_noise": "sources without final mark, and with a slip, share",
        "per_device_train_batch_size": "batch, pairs per process",
        "gradient_accumulation_steps": "batches per step",
        "num_train_epochs": "epochs, at most",
        "max_train_steps": "steps, at most",
        "average_last_checkpoints": "validations averaged",
        "seed": "seed",
    },
    "data": {"max_tokens_per_batch": "batch, tokens per process", "tokenizer_kind": "tokenizer"},
    "model": {"dropout": "dropout", "initializer": "initialisation"},
}


def write_model_card(
    folder: str | Path, *, license: str = "apache-2.0", name: str | None = None
) -> Path:
    """Fill the template `model_card.md` from a checkpoint's own files and save it as `README.md`.

    Reads `config.json` and, where they exist, `settings.json`, `eval_results.json`,
    `tokenizer_config.json` and the attention map; leaves out what they do not state.

    Args:
        folder: a checkpoint of ours, as a run ends with.
        license: licence of the weights, as the Hub abbreviates it.
        name: the model's; default: the run's `hub_model_id`, else the folder's name.

    Raises:
        InputError: the folder holds no checkpoint of ours, or a file in it cannot be read.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    settings = read_json(folder / "settings.json")
    results = read_json(folder / "eval_results.json")
    tokenizer = read_json(folder / "tokenizer_config.json")
    train, data = as_mapping(settings.get("train")), as_mapping(settings.get("data"))
    source_lang, target_lang = languages = [
        str(data.get(side) or tokenizer.get(side) or "") for side in ("source_lang", "target_lang")
    ]
    name = (name or train.get("hub_model_id") or folder.resolve().name).split("/")[-1]
    splits = {split: as_mapping(results.get(split)) for split in _SPLITS}
    scores = {split: values for split, values in splits.items() if is_number(values.get("bleu"))}
    # Validation chose the weights: it counts only where nothing else was measured.
    judged, first_scores = next(iter(scores.items()), ("", {}))
    has_attention = config.get("use_attention", True)
    num_pairs = as_mapping(settings.get("num_pairs"))
    hub_data = _on_hub(data.get("dataset_name"))
    start = as_mapping(settings.get("model")).get("model_name_or_path")
    limit = tokenizer.get("model_max_length")  # the library writes a huge one where there is none
    few = any(few_sentences(values.get("num_sentences")) for values in scores.values())
    card_data = ModelCardData(
        language=[code for code in languages if language_of(code)] or None,
        license=license,
        library_name="transformers",
        pipeline_tag="translation",
        tags=["bahdanau", "seq2seq", "gru", *(["attention"] if has_attention else [])],
        datasets=[hub_data] if hub_data else None,
        base_model=_on_hub(start),
        metrics=list(_METRICS) if scores else None,
        model_name=name,
        eval_results=_eval_results(judged, first_scores, data) or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_str=resources.files("bahdanau_hf").joinpath("model_card.md").read_text("utf-8"),
        model_name=name,
        repo_id=REPO_PLACEHOLDER,
        license=license,
        source_language=language_name(source_lang) or "its source language",
        target_language=language_name(target_lang) or "its target language",
        example=EXAMPLES.get(base_language(source_lang), ["..."])[0],
        has_attention=has_attention,
        config=config,
        num_parameters=_number(settings.get("num_parameters")),
        package_version=as_mapping(settings.get("versions")).get("bahdanau_hf"),
        attention_map=attention_map(folder),
        data=data,
        data_name=_data_name(data),
        start=_on_hub(start) or (Path(start).name if start else None),
        num_pairs={k: _number(n) for k, n in num_pairs.items() if is_number(n)},
        dropped=_dropped(settings.get("dropped")),
        procedure=_procedure(settings, results, tokenizer, config) if settings else {},
        alignment=_alignment(results.get("alignment")),
        confidence=_confidence(results.get("confidence")),
        few_sentences=FEW_SENTENCES if few else None,
        scores=[_score_row(values, split=_SPLITS[split]) for split, values in scores.items()],
        search=_search(scores),
        signatures=_signatures(scores),
        groups=group_tables(first_scores, source_lang),
        grouped_split=judged,
        max_source_length=int(limit) if is_number(limit) and limit < 1e6 else None,
    )
    path = folder / "README.md"
    write_whole(path, card.content.rstrip("\n") + "\n")
    return path


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read `config.json`; `InputError` if it is missing, damaged or of another kind of model."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != "bahdanau":
        found = f"one of type {config['model_type']!r}" if "model_type" in config else "none"
        raise InputError(f"{folder} should hold a bahdanau checkpoint, but holds {found}")
    return config


def attention_map(folder: Path) -> str | None:
    """Name the picture that goes with a checkpoint: of SVG and PNG, the one legible everywhere."""
    return next((name for name in _ATTENTION_MAPS if (folder / name).is_file()), None)


def _number(value: Any) -> str | None:
    return f"{value:,}" if is_number(value) else None


def _on_hub(name: Any) -> str | None:
    """The name of a data set or model, if it is one on the Hub and no folder that is here."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return str(name)


def _data_name(data: _Json) -> str:
    specs = filter(None, (data.get("train_file"), data.get("mix_file")))
    names = [Path(file).name for spec in specs for file in str(spec).split(",")]
    if not data.get("train_file"):
        names.insert(0, str(data.get("dataset_name") or "bahdanau_hf bundled pairs"))
    return ", ".join(names)


def _dropped(value: Any) -> str:
    """Pairs of the training split left out, by reason."""
    counts = as_mapping(as_mapping(value).get("train") or value)
    reasons = ("empty", "too_long", "unequal_lengths", "bad_rows")
    told = [(n, name) for name, n in counts.items() if name in reasons and is_number(n) and n]
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for n, name in told)


def _procedure(settings: _Json, results: _Json, tokenizer: _Json, config: _Json) -> dict[str, str]:
    rows = {}
    for group, fields in _PROCEDURE.items():
        values = as_mapping(settings.get(group))
        for field, label in fields.items():
            # Zero is what is not done; a seed of zero is a seed.
            if values.get(field) or (field == "seed" and values.get(field) == 0):
                rows[label] = str(values[field])
    if "batch, tokens per process" in rows:
        rows.pop("batch, pairs per process", None)
    if "steps, at most" in rows:
        rows.pop("epochs, at most", None)
    size = _number(config.get("vocab_size"))
    whole = _number(config.get("encoder_vocab_size") or config.get("vocab_size"))
    seconds, best_step = results.get("train_runtime_seconds"), results.get("best_step")
    weights = f"step {best_step}" if is_number(best_step) else ""
    versions = as_mapping(settings.get("versions"))
    found = {
        "vocabulary": f"{whole} tokens, {size} of them in the target" if whole and size else "",
        "tokenizer": tokenizer.get("tokenizer_kind"),
        "steps taken": _number(results.get("steps")),
        "weights taken": results.get("weights") or weights,
        "training time": f"{seconds:,.0f} s" if is_number(seconds) else "",
        "precision": settings.get("precision"),
        "software": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    return rows | {label: str(value) for label, value in found.items() if value}


def _score_row(scores: _Json, **labels: str) -> dict[str, str]:
    row = {key: f"{scores[key]:.2f}" for key in _METRICS if is_number(scores.get(key))}
    return {**labels, **row, "num_sentences": _number(scores.get("num_sentences")) or ""}


def _alignment(value: Any) -> _Json:
    """Alignment error rates, the model's and what knows nothing of the words, if all are there."""
    names = ("error_rate", "diagonal_error_rate", "uniform_error_rate", "num_sentences")
    return value if all(is_number(as_mapping(value).get(name)) for name in names) else {}


def _confidence(value: Any) -> str:
    """How far the stated confidence can be believed, of words and of sentences."""
    parts = {name: as_mapping(part).get("ece") for name, part in as_mapping(value).items()}
    return ", ".join(f"{name} {error:.3f}" for name, error in parts.items() if is_number(error))


def _search(scores: Mapping[str, _Json]) -> str:
    """How the splits were translated, where that is recorded."""
    beams = [values["num_beams"] for values in scores.values() if values.get("num_beams")]
    words = ["greedy search" if n == 1 else f"beam search with {n} beams" for n in beams]
    return " and ".join(dict.fromkeys(words))


def _signatures(scores: Mapping[str, _Json]) -> list[str]:
    """Each signature once; splits are scored alike unless their references differ in number."""
    lines = [
        f"{name} {values[f'{metric}_signature']}"
        for values in scores.values()
        for metric, name in _METRICS.items()
        if values.get(f"{metric}_signature")
    ]
    return list(dict.fromkeys(lines))


def _eval_results(split: str, scores: _Json, data: _Json) -> list[EvalResult]:
    own_file = data.get(f"{split}_file")
    name = Path(own_file).name if own_file else _data_name(data)
    signatures = {metric: scores.get(f"{metric}_signature") for metric in _METRICS}
    return [
        EvalResult(
            task_type="translation",
            task_name="Translation",
            dataset_type=_on_hub(data.get("dataset_name")) or name.replace(" ", "-"),
            dataset_name=name,
            dataset_config=data.get("dataset_config_name"),
            dataset_split=split,
            metric_type=metric,
            metric_name=label,
            metric_value=round(float(scores[metric]), 2),
            metric_args={"signature": signatures[metric]} if signatures[metric] else None,
        )
        for metric, label in _METRICS.items()
        if is_number(scores.get(metric))
    ]
