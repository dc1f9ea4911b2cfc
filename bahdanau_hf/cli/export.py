"""Write a checkpoint for ONNX Runtime (extra [onnx]).

The result holds encoder, decoder step, tokenizer and search settings, or one graph for the whole
search, greedy or with beams, and needs neither Python nor PyTorch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import InputError
from .options import CHECKPOINT, load_checkpoint

FLAGS = {
    **CHECKPOINT,
    "--format {onnx,onnx-search,onnx-greedy}=onnx": "onnx: two graphs for ONNX Runtime, the "
    "tokenizer and the search's settings; onnx-search: one graph that is the whole search, ids in, "
    "ids out; onnx-greedy: the same with --num_beams 1 (default: onnx)",
    "--num_beams N": "with onnx-search: beams that the graph searches with (default: the "
    "checkpoint's)",
    "--output_dir DIR": "folder for the exported files",
    "--dtype {float32,int8}=float32": "int8: matrices in 8 bits, about a quarter of the size "
    "(default: float32)",
}
REQUIRED = ["--model", "--output_dir"]


def run(args: argparse.Namespace) -> None:
    """Export what the flags name, and say how far the result is from the model."""
    from ..data.tokenization import load_tokenizer
    from ..export.onnx_export import check_installed, export_onnx, export_search

    if args.num_beams is not None and args.format != "onnx-search":
        raise InputError(f"--num_beams is for --format onnx-search, not {args.format}")
    num_beams = 1 if args.format == "onnx-greedy" else args.num_beams
    check_installed()  # said before a model is fetched
    model = load_checkpoint(args)
    tokenizer = load_tokenizer(model.name_or_path)
    where = (model, tokenizer, args.output_dir, args.dtype)
    by_steps = args.format == "onnx"
    agreement = export_onnx(*where) if by_steps else export_search(*where, num_beams)
    size = sum(path.stat().st_size for path in Path(args.output_dir).glob("*.onnx"))
    search = "greedy search" if by_steps else "this search"
    print(
        f"wrote {args.output_dir}: {size / 1e6:.1f} MB; against PyTorch in float32, by {search}, "
        f"{agreement}",
        file=sys.stderr,
    )
