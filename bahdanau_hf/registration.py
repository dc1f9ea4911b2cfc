"""Makes the model known to transformers, and not before anything imports transformers.

`import bahdanau_hf` alone imports neither torch nor transformers, so that a command can answer
`--help` at once. Whoever loads a model needs transformers, and finds it registered.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def register() -> None:
    """Register the model with `AutoConfig`, `AutoModel` and `AutoModelForSeq2SeqLM`."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

    from . import gpu
    from .modeling.configuration_bahdanau import BahdanauConfig
    from .modeling.modeling_bahdanau import BahdanauForConditionalGeneration

    AutoConfig.register("bahdanau", BahdanauConfig, exist_ok=True)
    AutoModel.register(BahdanauConfig, BahdanauForConditionalGeneration, exist_ok=True)
    AutoModelForSeq2SeqLM.register(BahdanauConfig, BahdanauForConditionalGeneration, exist_ok=True)
    BahdanauConfig.register_for_auto_class()
    BahdanauForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
    if torch.cuda.device_count():  # which, unlike `is_available`, lets processes fork afterwards
        gpu.register()


def register_with_transformers() -> None:
    """Register now if transformers is imported already, otherwise right after its import."""
    if "transformers" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterTransformers())


class _AfterTransformers(importlib.abc.MetaPathFinder):
    """Finds transformers as the other finders do, and calls `register` once it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "transformers":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:  # asking for a spec, as `find_spec` does, imports nothing
                    sys.meta_path.remove(self)
                    register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
