"""Print versions, processor, devices and settings, as a bug report needs them.

Nothing is private: no folder, no name of a user or host, no token. With --model, it says how that
model computes.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..version import __version__
from .options import CHECKPOINT, load_checkpoint, print_json, standard_output

if TYPE_CHECKING:
    from ..modeling.modeling_bahdanau import BahdanauForConditionalGeneration

LIBRARIES = (
    *("transformers", "tokenizers", "datasets", "accelerate", "sacrebleu", "numpy"),
    "huggingface_hub",
)
OPTIONAL = ("matplotlib", "OpenCC", "onnxruntime", "gradio")
# What changes how something is computed, or whether the Hub is asked.
_SETTINGS = re.compile(
    r"(BAHDANAU|OMP|KMP|MKL|DNNL|ONEDNN|ATEN|OPENBLAS)_\w+"
    r"|CUDA_VISIBLE_DEVICES|(HF_HUB|TRANSFORMERS|HF_DATASETS)_OFFLINE|HF_ENDPOINT"
)
_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|KEY", re.IGNORECASE)

Facts = dict[str, str | int | None]
FLAGS = {**CHECKPOINT, "--json": "print one JSON object"}


def run(args: argparse.Namespace) -> None:
    """Print the facts, one a line as `name: value`, or as JSON."""
    facts = environment(None if args.model is None else load_checkpoint(args))
    if args.json:
        print_json(facts)
        return
    shown = {name: "not installed" if v is None else v for name, v in facts.items()}
    text = "".join(f"{name}: {value}\n" for name, value in shown.items())
    standard_output().write(text.encode())


def environment(model: BahdanauForConditionalGeneration | None = None) -> Facts:
    """Collect the facts in the order in which they are printed; `None` is not installed.

    The way of computing is the model's or, without one, what a model takes unless told otherwise.
    Environment variables come last, under their own names, and only those that are set.
    """
    import torch

    from ..modeling.processor_bahdanau import processor

    way, reason = _way_of_computing(model)
    answers = processor()._asdict()
    return {
        "bahdanau-hf": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,  # which says what it was built for, as its metadata may not
        **{name: installed_version(name) for name in (*LIBRARIES, *OPTIONAL)},
        "processor": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        # As BAHDANAU_PROCESSOR takes it: who reads the report can pretend to be this machine.
        "processor_answers": ",".join(f"{name}={answer:d}" for name, answer in answers.items()),
        "cuda": _cuda(),
        "mps": "available" if torch.backends.mps.is_available() else "none",
        "implementation": f"{way} ({reason})",
        **_settings(),
    }


def installed_version(distribution: str) -> str | None:
    """The version of what is installed under this name, or `None`."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def processor_name() -> str:
    """What the processor is called, or at least of which kind it is.

    Rented machines often give a name without a number, such as AMD EPYC: family and model follow.
    """
    with suppress(OSError):  # not Linux
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found = re.findall(r"^(model name|cpu family|model)[ \t]*:(.*)", said, re.MULTILINE)
        fields = {key: value.strip() for key, value in found}
        if name := fields.get("model name"):
            family, model = fields.get("cpu family"), fields.get("model")
            numbered = re.search(r"\d", name) or not (family and model)
            return name if numbered else f"{name} (family {family}, model {model})"
    return platform.processor() or platform.machine()


def _way_of_computing(model: BahdanauForConditionalGeneration | None) -> tuple[str, str]:
    from ..modeling.modeling_bahdanau import default_implementation

    if model is not None:
        return model.chosen_implementation()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    way, wish = default_implementation(device), os.environ.get("BAHDANAU_IMPLEMENTATION")
    return way, "BAHDANAU_IMPLEMENTATION" if way == wish else "the default"


def _cores() -> str:
    total = os.cpu_count() or 0
    if sys.platform != "linux":
        return str(total)
    allowed = len(os.sched_getaffinity(0))  # a container may be given fewer than there are
    return str(total) if allowed == total else f"{total}, of which {allowed} may be used"


def _cuda() -> str:
    """The devices and the CUDA that PyTorch was built for."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
    return f"{', '.join(names) or 'none'} (PyTorch {built})"


def _settings() -> dict[str, str]:
    """The environment variables that matter, without what is nobody else's business."""
    found = {}
    for name, value in sorted(os.environ.items()):
        if _SETTINGS.fullmatch(name) and not _SECRET.search(name):
            found[name] = _without_private_parts(value)
    return found


def _without_private_parts(value: str) -> str:
    """One printable line: of an address the server alone, of a path nothing."""
    if "://" in value:
        try:
            address = urlsplit(value)
        except ValueError:
            return "not an address"
        value = f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
    elif "/" in value or "\\" in value:
        return "a path"
    return value if value.isprintable() else ascii(value)
