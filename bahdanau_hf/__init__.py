"""Recurrent translation with additive (Bahdanau) attention for the Hugging Face ecosystem.

Importing the package registers the model with `AutoConfig`, `AutoModel` and
`AutoModelForSeq2SeqLM`, so that its checkpoints load without `trust_remote_code`. All that is not
the model itself is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from . import gpu
from .configuration_bahdanau import BahdanauConfig
from .errors import InputError
from .modeling_bahdanau import BahdanauForConditionalGeneration, BahdanauModel
from .version import __version__

AutoConfig.register("bahdanau", BahdanauConfig, exist_ok=True)
AutoModel.register(BahdanauConfig, BahdanauForConditionalGeneration, exist_ok=True)
AutoModelForSeq2SeqLM.register(BahdanauConfig, BahdanauForConditionalGeneration, exist_ok=True)
BahdanauConfig.register_for_auto_class()
BahdanauForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
if torch.cuda.device_count():  # which, unlike `is_available`, lets processes fork afterwards
    gpu.register()

if TYPE_CHECKING:
    from .alignment import Alignment
    from .ensemble import EnsembleLogitsProcessor
    from .metrics import TranslationMetric, TranslationScores, score_translations
    from .pipeline_bahdanau import BahdanauTranslationPipeline
    from .plotting import plot_alignment, save_alignment
    from .tokenization import clean_text, load_tokenizer, train_tokenizer
    from .translation import Translation, Translator

_MODULES = {
    "Alignment": "alignment",
    "BahdanauTranslationPipeline": "pipeline_bahdanau",
    "EnsembleLogitsProcessor": "ensemble",
    "Translation": "translation",
    "TranslationMetric": "metrics",
    "TranslationScores": "metrics",
    "Translator": "translation",
    "clean_text": "tokenization",
    "load_tokenizer": "tokenization",
    "plot_alignment": "plotting",
    "save_alignment": "plotting",
    "score_translations": "metrics",
    "train_tokenizer": "tokenization",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


__all__ = [
    "Alignment",
    "BahdanauConfig",
    "BahdanauForConditionalGeneration",
    "BahdanauModel",
    "BahdanauTranslationPipeline",
    "EnsembleLogitsProcessor",
    "InputError",
    "Translation",
    "TranslationMetric",
    "TranslationScores",
    "Translator",
    "__version__",
    "clean_text",
    "load_tokenizer",
    "plot_alignment",
    "save_alignment",
    "score_translations",
    "train_tokenizer",
]
