"""Makes the model known to transformers, and not before anything imports transformers.

`import bahdanau_hf` alone imports neither torch nor transformers, so that a command can answer
`--help` at once. Whoever loads a model needs transformers, and finds it registered.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


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


def register_pipeline() -> None:
    """Let `pipeline("translation", ...)` and `"translation_en_to_zh"` find ours: it has none."""
    from transformers import AutoModelForSeq2SeqLM
    from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS

    from .modeling.configuration_bahdanau import BahdanauConfig

    find = PIPELINE_REGISTRY.check_task

    def check_task(task: str) -> tuple[str, dict[str, Any], Any]:
        if task != "translation" and not task.startswith("translation_"):
            return find(task)
        from .modeling.pipeline_bahdanau import BahdanauTranslationPipeline

        ours = {"impl": BahdanauTranslationPipeline, "pt": (AutoModelForSeq2SeqLM,), "type": "text"}
        return "translation", ours, None

    # A configuration that names a pipeline makes the library ask for trust in the code beside it:
    # ours names it in files alone.
    BahdanauConfig.custom_pipelines = property(  # type: ignore[assignment]
        lambda config: {}, lambda config, value: vars(config).update(custom_pipelines=value)
    )
    REMOVED_TASKS.pop("translation", None)
    PIPELINE_REGISTRY.check_task = check_task


def register_with_transformers() -> None:
    """Register now what is imported already, the rest right after its import."""
    for name, action in (("transformers", register), ("transformers.pipelines", register_pipeline)):
        if name in sys.modules:
            action()
        else:
            sys.meta_path.insert(0, _After(name, action))


class _After(importlib.abc.MetaPathFinder):
    """Finds a module as the other finders do, and acts once it is imported."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name, self._action = name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:  # asking for a spec, as `find_spec` does, imports nothing
                    sys.meta_path.remove(self)
                    self._action()

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
