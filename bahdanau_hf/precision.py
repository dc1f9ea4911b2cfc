"""Which number format to compute in: what is wished, and what the hardware multiplies quickly."""

from __future__ import annotations

import logging
from functools import cache

import torch

from .errors import InputError
from .modeling.processor_bahdanau import multiplies_fast

logger = logging.getLogger(__name__)


def is_emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device can only imitate this number format, no faster than float32 at best."""
    if device.type == "cpu":
        return not multiplies_fast(dtype, device)
    if device.type == "cuda" and dtype == torch.bfloat16:
        with torch.cuda.device(device):
            return not torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a processor or GPU that multiplies it in hardware, float32 anywhere else."""
    is_known = device.type in ("cpu", "cuda")
    has_it = is_known and not is_emulated(torch.bfloat16, device)
    return torch.bfloat16 if has_it else torch.float32


def warn_if_emulated(dtype: torch.dtype, device: torch.device) -> None:
    """Say, once for each format, that a model runs in one that its device can only imitate."""
    if is_emulated(dtype, device):
        _warn_once(_complaint(dtype, device, "translating") + "Take the dtype auto or float32")


def _complaint(dtype: torch.dtype, device: torch.device, what: str) -> str:
    machine = "processor" if device.type == "cpu" else "GPU"
    return (
        f"{_name(dtype)} has no hardware on this {machine}: {what} is no faster than in float32, "
        "and rounds more. "
    )


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


# --- training ------------------------------------------------------------------------------------

_MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(wanted: str | None, told: str, begun: str | None, is_fast: bool) -> str:
    """The mixed precision of a run, by accelerate's names: `no`, `bf16`, `fp16`.

    Args:
        wanted: what recipe and flags say: one of these, or `auto`; `None`: what accelerate says.
        told: what accelerate says. Its `no` is also what it says when nobody was asked.
        begun: what the run that is resumed was begun in; `None`: it begins now.
        is_fast: whether the hardware of every process multiplies in bfloat16.

    Raises:
        InputError: recipe and accelerate contradict each other.
    """
    if wanted not in (None, "auto"):
        if told not in ("no", wanted):
            raise InputError(
                f"--precision {wanted} (in the recipe or on the command line), but accelerate is "
                f"set to {told}: leave out one of them, or run accelerate launch "
                f"--mixed_precision {wanted}"
            )
        return str(wanted)
    if wanted is None or told != "no":
        return told
    return begun or ("bf16" if is_fast else "no")


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse what accelerate would pass over in silence.

    Raises:
        InputError: float16 on a processor, where accelerate trains in float32, and 8 bits.
    """
    if precision not in (*_MIXED, "no"):
        raise InputError(f"accelerate is set to {precision}: a run is in no, bf16 or fp16 here")
    if precision == "fp16" and device.type == "cpu":
        raise InputError(
            "fp16 needs a GPU: on a processor accelerate would train in float32. Take --precision "
            "auto, and leave out accelerate's --mixed_precision fp16"
        )


def warn_of_slow_training(precision: str, device: torch.device, advice: str) -> None:
    """Say before a run starts that its device can only imitate this precision, and what to do."""
    dtype = _MIXED.get(precision)
    if dtype is not None and is_emulated(dtype, device):
        logger.warning(_complaint(dtype, device, "a step") + advice)


def precision_name(precision: str) -> str:
    """What a reader calls accelerate's `no`, `bf16` and `fp16`."""
    dtype = _MIXED.get(precision)
    if dtype is None:
        return "float32" if precision == "no" else precision
    return f"{_name(dtype)}, weights in float32"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
