"""What this processor and this PyTorch can do: asked once, for every fast way of computing.

PyTorch's private operators come and go between releases, and what they can do depends on the
processor. So each is tried here, on a few numbers, and whoever wants to use one asks `processor()`
and never the machine. An answer can be pretended, to see what happens on another machine: by
`pretending`, or by the environment variable `BAHDANAU_PROCESSOR` (`"int8=0,vnni=0"`).
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)


class Processor(NamedTuple):
    """What the CPU can do. All `False`: everything is computed by PyTorch's public operators.

    Attributes:
        onednn: products of float32 through oneDNN, by operators that PyTorch does not document.
        packing: the same with weights laid out beforehand.
        bfloat16_packing: the same in bfloat16.
        bfloat16: bfloat16 is multiplied in hardware; without it is many times slower than float32.
        float16: likewise.
        int8: products in 8 bits, by FBGEMM.
        vnni: they are summed in 32 bits; otherwise two of them in 16, with a bit less of each.
    """

    onednn: bool = False
    packing: bool = False
    bfloat16_packing: bool = False
    bfloat16: bool = False
    float16: bool = False
    int8: bool = False
    vnni: bool = False


_pretended: Processor | None = None


def processor() -> Processor:
    """What the CPU can do, or what is pretended."""
    return _asked() if _pretended is None else _pretended


@contextmanager
def pretending(**answers: bool) -> Iterator[Processor]:
    """Give other answers for a while, in all threads; what is not named stays as it is."""
    global _pretended
    before, _pretended = _pretended, processor()._replace(**answers)
    try:
        yield _pretended
    finally:
        _pretended = before


@functools.cache
def _asked() -> Processor:
    capabilities = _quietly(lambda: dict(torch.cpu.get_capabilities()), {})
    onednn = _onednn_multiplies(packed=False)
    bfloat16_packing = _supports("_is_mkldnn_bf16_supported") and _onednn_multiplies(
        packed=True, dtype=torch.bfloat16
    )
    # oneDNN may be told to use less than there is (ONEDNN_MAX_CPU_ISA).
    x86 = bfloat16_packing and any(
        capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "avx10_2")
    )
    arm = _supports("_is_mkldnn_bf16_supported") and bool(capabilities.get("bf16"))
    answers = Processor(
        onednn=onednn,
        packing=onednn and _onednn_multiplies(packed=True),
        bfloat16_packing=bfloat16_packing,
        bfloat16=x86 or arm,
        float16=_supports("_is_mkldnn_fp16_supported"),
        int8=_fbgemm_multiplies(),
        vnni=bool(
            capabilities.get("avx512_vnni")
            or _quietly(lambda: torch.cpu._is_vnni_supported(), False)
        ),
    )
    return answers._replace(**_wished(os.environ.get("BAHDANAU_PROCESSOR", "")))


def _wished(text: str) -> dict[str, bool]:
    answers: dict[str, bool] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name not in Processor._fields or value not in ("0", "1"):
            logger.warning(
                f"BAHDANAU_PROCESSOR has {item!r}, which is none of "
                f"{', '.join(Processor._fields)} with =0 or =1; it is not followed."
            )
            continue
        answers[name] = value == "1"
    return answers


def _quietly(ask: Callable[[], Any], otherwise: Any) -> Any:
    """The answer; `otherwise` where this PyTorch cannot be asked."""
    try:
        return ask()
    except (AttributeError, RuntimeError, NotImplementedError):
        return otherwise


def _supports(name: str) -> bool:
    return bool(_quietly(lambda: getattr(torch.ops.mkldnn, name)(), False))


def _onednn_multiplies(packed: bool, dtype: torch.dtype = torch.float32) -> bool:
    def multiply() -> bool:
        if not torch.backends.mkldnn.is_available():
            return False
        x, weight = torch.ones(2, 16, dtype=dtype), torch.ones(8, 16, dtype=dtype)
        if packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        y = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return bool((y == 16).all())

    with torch.no_grad():
        return bool(_quietly(multiply, False))


def _fbgemm_multiplies() -> bool:
    return (
        hasattr(torch, "quantize_per_channel")
        and hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
        and hasattr(torch.ops.quantized, "linear_prepack")
        and "fbgemm" in torch.backends.quantized.supported_engines
    )


__all__ = ["Processor", "pretending", "processor"]
