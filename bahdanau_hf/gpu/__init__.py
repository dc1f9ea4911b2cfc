"""Ways of computing for a GPU: they stay with the package and do not travel with checkpoints.

`register` adds them to those that a model can be told to take; their modules are imported when a
model first takes one.

| name    | what it does                                              |
| ------- | --------------------------------------------------------- |
| "graph" | the searches of `generate` as CUDA graphs (`cuda_graphs`) |
"""

from collections.abc import Callable
from typing import Any

import torch


def register() -> None:
    """Let `set_implementation` take the ways of this folder."""
    from ..modeling import modeling_bahdanau

    modeling_bahdanau.FAST_WAYS["graph"] = modeling_bahdanau.FastWay(
        greedy_search=_imported_when_called("graphed_greedy_search"),
        beam_search=_imported_when_called("graphed_beam_search"),
    )


def _imported_when_called(name: str) -> Callable[[Any], Any]:
    @torch.compiler.disable  # as what it calls
    def call(asked: Any) -> Any:
        from . import cuda_graphs

        return getattr(cuda_graphs, name)(asked)

    return call
