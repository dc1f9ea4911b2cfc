"""Where things stand, what is in a folder, and programs as modules."""

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "bahdanau_hf" / "recipes"
RECIPES = ROOT / "bahdanau_hf" / "recipes"
FIXTURES = ROOT / "tests" / "fixtures"
PAIRS = FIXTURES / "pairs.tsv"  # 64 English-Chinese pairs


def fingerprint(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, by its path below the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def load_program(path: str) -> ModuleType:
    """A file that is no part of a package, by its path in the repository, as a new module."""
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
