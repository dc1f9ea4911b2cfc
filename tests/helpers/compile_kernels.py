"""`compile_kernels.py ARCHITECTURE fp16|bf16|fp32`: compile both kernels for a GPU, without one.

Prints the bytes of shared memory that each takes.
"""

import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from bahdanau_hf.gpu import triton_recurrence
from bahdanau_hf.gpu.triton_kernels import backward_kernel, forward_kernel

H, LAYERS = 256, 2
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
NARROW = {"w_hh", "w_ih", "w_query", "keys", "gates"}
CONSTANTS = {
    "L": LAYERS, "BM": triton_recurrence.ROWS, "BK": 64, "BH": H, "BA": H, "BS": 64,
    "ATTENDS": True, "DROPS": True, "DROPS_WEIGHTS": True, "HOLDS": True, "KEEPS": True,
    "HAS_STATES": True, "HAS_ALPHA": True, "PRECISION": "ieee",
}  # fmt: skip


def shared_bytes(kernel: Any, columns: int, stages: int, architecture: int, kind: str) -> int:
    """Compile one kernel as it is called for a model of width H."""
    constants = {**CONSTANTS, "BN": columns}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        is_size = name in ("T", "B", "S", "H", "A")
        signature[name] = "i32" if is_size else "*" + (kind if name in NARROW else "fp32")
        if name not in ("T", "B", "S"):  # of which the others are multiples of 16
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": 8, "num_stages": stages}
    target = GPUTarget("cuda", architecture, 32)
    return int(compile_kernel(source, target=target, options=options).metadata.shared)


def main(architecture: str, kind: str) -> None:
    """Compile both."""
    tile = triton_recurrence._tile(H, LAYERS, DTYPES[kind], torch.device("cpu"))
    assert tile is not None
    for kernel, (columns, stages) in ((forward_kernel, tile), (backward_kernel, (64, 2))):
        taken = shared_bytes(kernel, columns, stages, int(architecture), kind)
        sys.stdout.write(f"{taken}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
