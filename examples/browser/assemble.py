"""Assemble the page for an exported model: a folder that any file server can serve.

    bahdanau-hf export --model CHECKPOINT --output_dir exported
    python examples/browser/assemble.py --model exported --output_dir page
    python -m http.server --bind 127.0.0.1 --directory page 8000

ONNX Runtime and the tokenizer for browsers come from npm, with the versions and checksums of
`package-lock.json`. Their install scripts are not run.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = ("index.html", "style.css", "page.js", "translator.js")
MODEL = ("translation.json", "tokenizer.json", "encoder_model.onnx", "decoder_model.onnx")
LIBRARIES = (
    "@huggingface/tokenizers/dist/tokenizers.min.mjs",
    "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
)


def assemble(model: Path, output_dir: Path) -> None:
    """Copy page, libraries and model into a folder.

    Raises:
        ValueError: the model is none, or npm is missing or fails.
    """
    if missing := [name for name in MODEL if not (model / name).is_file()]:
        raise ValueError(f"{model} is not an exported model: no {' and no '.join(missing)}")
    packages = HERE / "node_modules"
    if not all((packages / name).is_file() for name in LIBRARIES):
        npm = shutil.which("npm")
        if npm is None:
            raise ValueError("npm is needed once, to fetch ONNX Runtime: install Node.js")
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        if subprocess.run(command, cwd=HERE, stdout=sys.stderr).returncode != 0:
            raise ValueError("npm could not fetch the packages; see above")
    pieces = [(HERE / name, name) for name in PAGE]
    pieces += [(packages / name, f"lib/{Path(name).name}") for name in LIBRARIES]
    pieces += [(model / name, f"model/{name}") for name in MODEL]
    for source, name in pieces:
        target = output_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def main() -> int:
    """Read the flags and assemble."""
    parser = argparse.ArgumentParser(description="Assemble a page that translates.")
    parser.add_argument("--model", type=Path, required=True, help="the exported folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the page goes")
    args = parser.parse_args()
    try:
        assemble(args.model, args.output_dir)
    except (ValueError, OSError) as error:
        print(f"assemble: error: {error}", file=sys.stderr)
        return 2
    print(
        f"wrote {args.output_dir}; serve it, for instance with\n"
        f"  python -m http.server --bind 127.0.0.1 --directory {args.output_dir} 8000",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
