"""Whether a device runs the kernels."""

import functools
import importlib.util

import torch

OLDEST = (8, 0)  # compute capability with bfloat16; the kernels were tried on 9.0


@functools.cache
def can_run_kernels(device: torch.device) -> bool:
    """Whether a device runs the Triton kernels."""
    is_cuda = device.type == "cuda" and torch.version.hip is None  # not tried on AMD's
    if not is_cuda or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST
