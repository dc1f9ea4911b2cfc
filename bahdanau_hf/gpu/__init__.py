"""Ways of computing for a GPU: they stay with the package and do not travel with checkpoints.

`register` adds the implementation "cuda", which models on a CUDA device then take by themselves:

| module          | what it does                                                                  |
| --------------- | ----------------------------------------------------------------------------- |
| `recurrence`    | the loop of training and of the encoder: a product and a Triton kernel a step |
| `loss`          | output layer and loss: one kernel between its products                        |
| `cuda_graphs`   | the searches of `generate`, recorded as CUDA graphs                           |
| `step_graphs`   | a whole step of training, likewise                                            |
| `compile_ahead` | compiles the kernels while a training's pairs are read                        |

Their modules are imported when a model first needs them. Where the kernels cannot run, without
Triton or on an old card, the loop is the ordinary one.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from .device import can_run_kernels


def register() -> None:
    """Let `set_implementation` take "cuda"."""
    from ..modeling import modeling_bahdanau

    ordinary = modeling_bahdanau.FAST_WAYS["fast"]
    modeling_bahdanau.FAST_WAYS["cuda"] = modeling_bahdanau.FastWay(
        recur=_of_kernels("recurrence", "recur", ordinary.recur),
        run_grus=_of_kernels("recurrence", "run_grus", ordinary.run_grus),
        cross_entropy=_of_kernels("loss", "linear_cross_entropy", ordinary.cross_entropy),
        greedy_search=_imported_when_called("graphed_greedy_search"),
        beam_search=_imported_when_called("graphed_beam_search"),
    )


def _of_kernels(module: str, name: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Call a function of a module here where the first tensor lies on a device that can."""

    @torch.compiler.disable  # as what it stands for
    def call(given: Any, *args: Any, **options: Any) -> Any:
        device = (given if isinstance(given, torch.Tensor) else given[0]).device
        if not can_run_kernels(device):
            return otherwise(given, *args, **options)
        function = getattr(importlib.import_module(f".{module}", __name__), name)
        with torch.cuda.device(device):  # kernels are started on the present one
            return function(given, *args, **options)

    return call


def _imported_when_called(name: str) -> Callable[[Any], Any]:
    @torch.compiler.disable  # as what it calls
    def call(asked: Any) -> Any:
        from . import cuda_graphs

        return getattr(cuda_graphs, name)(asked)

    return call
