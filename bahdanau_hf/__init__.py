"""Recurrent translation with additive (Bahdanau) attention for the Hugging Face ecosystem.

Importing the package registers the model with `AutoConfig`, `AutoModel` and
`AutoModelForSeq2SeqLM`, so that its checkpoints load without `trust_remote_code`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from .configuration_bahdanau import BahdanauConfig
from .errors import InputError
from .modeling_bahdanau import BahdanauForConditionalGeneration, BahdanauModel
from .version import __version__

AutoConfig.register("bahdanau", BahdanauConfig, exist_ok=True)
AutoModel.register(BahdanauConfig, BahdanauForConditionalGeneration, exist_ok=True)
AutoModelForSeq2SeqLM.register(BahdanauConfig, BahdanauForConditionalGeneration, exist_ok=True)
BahdanauConfig.register_for_auto_class()
BahdanauForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = [
    "BahdanauConfig",
    "BahdanauForConditionalGeneration",
    "BahdanauModel",
    "InputError",
    "__version__",
]
