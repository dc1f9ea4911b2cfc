"""Sees which operations a host would have to wait for, if a device computed."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_LOOKS = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.nonzero,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.equal,
    torch.ops.aten.masked_select,
    torch.ops.aten._unique2,
}
_INDEXES = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}


class Looks(TorchDispatchMode):
    """Notes each operation that a device would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        by_mask = packet in _INDEXES and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if packet in _LOOKS or by_mask:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))
