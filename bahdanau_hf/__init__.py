"""Recurrent translation with additive (Bahdanau) attention for the Hugging Face ecosystem.

Importing the package registers the model with `AutoConfig`, `AutoModel` and
`AutoModelForSeq2SeqLM`, so that its checkpoints load without `trust_remote_code`; see
`registration`. Every name is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .registration import register_with_transformers
from .version import __version__

register_with_transformers()

if TYPE_CHECKING:
    from .alignment.record import Alignment
    from .data.tokenization import clean_text, load_tokenizer
    from .data.vocabulary import train_tokenizer
    from .inference.ensemble import EnsembleLogitsProcessor
    from .inference.glossary import Glossary
    from .inference.translation import Translation
    from .inference.translator import Translator
    from .metrics.evaluate_metric import TranslationMetric
    from .metrics.translation import TranslationScores, score_translations
    from .modeling.configuration_bahdanau import BahdanauConfig
    from .modeling.modeling_bahdanau import BahdanauForConditionalGeneration, BahdanauModel
    from .modeling.pipeline_bahdanau import BahdanauTranslationPipeline
    from .reporting.attention_plot import plot_alignment, save_alignment

_MODULES = {
    "Alignment": "alignment.record",
    "BahdanauConfig": "modeling.configuration_bahdanau",
    "BahdanauForConditionalGeneration": "modeling.modeling_bahdanau",
    "BahdanauModel": "modeling.modeling_bahdanau",
    "BahdanauTranslationPipeline": "modeling.pipeline_bahdanau",
    "EnsembleLogitsProcessor": "inference.ensemble",
    "Glossary": "inference.glossary",
    "Translation": "inference.translation",
    "TranslationMetric": "metrics.evaluate_metric",
    "TranslationScores": "metrics.translation",
    "Translator": "inference.translator",
    "clean_text": "data.tokenization",
    "load_tokenizer": "data.tokenization",
    "plot_alignment": "reporting.attention_plot",
    "save_alignment": "reporting.attention_plot",
    "score_translations": "metrics.translation",
    "train_tokenizer": "data.vocabulary",
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
    "Glossary",
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
