"""What this processor and this PyTorch can do: asked once, for every fast way of computing.

PyTorch's private operators come and go between releases, and not every processor has them all. So
each is tried here, on a few numbers; whoever wants one asks `processor()` and never the machine.
The environment variable `BAHDANAU_PROCESSOR` pretends another machine (`"int8=0,vnni=0"`).
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

# oneDNN keeps machine code for 1,024 shapes, up to 3 MB each, and PyTorch too: a training, in which
# all batches differ, grew by gigabytes. What a step or a search repeats is less than 48.
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "48")


class Processor(NamedTuple):
    """What the CPU can do. All `False`: everything is computed by PyTorch's public operators."""

    onednn: bool = False  # products of float32, by operators that PyTorch does not document
    packing: bool = False  # the same with weights laid out beforehand
    bfloat16_packing: bool = False  # the same in bfloat16
    bfloat16: bool = False  # is multiplied in hardware, else many times slower than float32
    float16: bool = False  # likewise
    int8: bool = False  # products in 8 bits, by FBGEMM
    vnni: bool = False  # sums them in 32 bits, else two of them in 16, with a bit less of each


def multiplies_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products of this type are no trap here: 16 bits without hardware are emulated."""
    if device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return True
    return processor().bfloat16 if dtype == torch.bfloat16 else processor().float16


@functools.cache
def processor() -> Processor:
    """What the CPU can do, or what the environment pretends."""
    return _asked()._replace(**_wished(os.environ.get("BAHDANAU_PROCESSOR", "")))


@functools.cache
def _asked() -> Processor:
    has = _answer(lambda: dict(torch.cpu.get_capabilities())) or {}
    onednn = _answer(_onednn_multiplies, torch.float32, packed=False)
    knows_bfloat16 = _answer(lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported())
    bfloat16_packing = knows_bfloat16 and _answer(_onednn_multiplies, torch.bfloat16, packed=True)
    # On x86 oneDNN may be told to use less than there is (ONEDNN_MAX_CPU_ISA).
    x86 = bfloat16_packing and (
        any(map(has.get, ("avx512_bf16", "amx_bf16", "avx10_2")))
        if has
        else _answer(lambda: torch.cpu._is_avx512_bf16_supported())  # before PyTorch 2.8
    )
    answers = {
        "onednn": onednn,
        "packing": onednn and _answer(_onednn_multiplies, torch.float32, packed=True),
        "bfloat16_packing": bfloat16_packing,
        "bfloat16": x86 or (knows_bfloat16 and has.get("bf16")),
        "float16": _answer(lambda: torch.ops.mkldnn._is_mkldnn_fp16_supported()),
        "int8": "fbgemm" in torch.backends.quantized.supported_engines
        and hasattr(torch, "quantize_per_channel")
        and hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
        and hasattr(torch.ops.quantized, "linear_prepack"),
        "vnni": has.get("avx512_vnni") or _answer(lambda: torch.cpu._is_vnni_supported()),
    }
    return Processor(**{name: bool(answer) for name, answer in answers.items()})


def _wished(text: str) -> dict[str, bool]:
    answers: dict[str, bool] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name in Processor._fields and value in ("0", "1"):
            answers[name] = value == "1"
        else:
            logger.warning(
                f"BAHDANAU_PROCESSOR has {item!r}, which is none of "
                f"{', '.join(Processor._fields)} with =0 or =1; it is not followed."
            )
    return answers


def _answer(ask: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `ask` says; `None` where this PyTorch cannot be asked."""
    try:
        return ask(*args, **kwargs)
    except (AttributeError, RuntimeError):
        return None


@torch.no_grad()
def _onednn_multiplies(dtype: torch.dtype, packed: bool) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.ones(2, 16, dtype=dtype), torch.ones(8, 16, dtype=dtype)
    if packed:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
    y = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return bool((y == 16).all())
