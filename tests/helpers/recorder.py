"""Records what a run does and does it again, as a CUDA graph would."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SYNCHRONISING = {"_local_scalar_dense", "nonzero", "is_nonzero", "_unique2", "masked_select"}
SENDING = {"lift_fresh"}  # torch.tensor


class Recorder(TorchDispatchMode):
    """Records a run as a CUDA graph does, and refuses what such a one refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        assert name not in SYNCHRONISING, f"{name} makes the host wait for the device"
        assert name not in SENDING, f"{name} sends a number to the device"
        if name == "where":
            assert all(x.dim() > 0 for x in args), "a plain number would be sent to the device"
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, result in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
