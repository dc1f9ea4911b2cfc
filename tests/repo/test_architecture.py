"""The house rules that a machine can check: floors, names, sizes, and what travels."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import bahdanau_hf
from tests.helpers.house_rules import (
    FLOORS,
    MOST_LINES,
    MOST_LINES_OF,
    MOST_ROOMS,
    MOST_ROOMS_OF,
    MOST_TRAVELLING_FILES,
    MOST_TRAVELLING_LINES,
)
from tests.helpers.places import ROOT

PACKAGE = ROOT / "bahdanau_hf"

HIDDEN = {"__init__", "__pycache__"}
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "base", "core"}
TRAVELLING = sorted((PACKAGE / "modeling").glob("*_bahdanau.py"))
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
PACKAGES = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
OUTSIDE = ("scripts", "benchmarks", "experiments")
SCRIPTS = sorted(path for folder in OUTSIDE for path in (ROOT / folder).glob("*.py"))


class WithoutTyping(ast.NodeTransformer):
    """Takes out what is never run."""

    def visit_If(self, node: ast.If) -> ast.If | list[ast.stmt]:
        is_typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return node.orelse if is_typing else node


def dotted(path: Path) -> str:
    """A module by its name below the package: `data.readers`, or `data` for its `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, run: bool = False) -> tuple[set[str], set[str]]:
    """The package's own modules that a file imports, anywhere in it, and the top-level others.

    With `run`, without those imports that are never run.
    """
    own, others = set(), set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree = WithoutTyping().visit(tree) if run else tree
    folder = path.parent.relative_to(PACKAGE).parts if path.is_relative_to(PACKAGE) else ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, *rest = alias.name.split(".")
                own.add(".".join(rest)) if first == "bahdanau_hf" else others.add(first)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            if not node.level and module.split(".")[0] != "bahdanau_hf":
                others.add(module.split(".")[0])
                continue
            module = module if node.level else module.partition(".")[2]
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                is_module = (PACKAGE / f"{inner.replace('.', '/')}.py").is_file() or (
                    PACKAGE / inner.replace(".", "/") / "__init__.py"
                ).is_file()
                own.add(inner if is_module else module)
    return own, others


def test_every_part_has_its_floor() -> None:
    """And every folder of code is a package, or the wheel would lack it."""
    assert {dotted(path).split(".")[0] for path in MODULES} == set(FLOORS)
    assert {path.parent for path in MODULES} - {PACKAGE} == set(PACKAGES)


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.name)
def test_packages_are_seen_at_a_glance(path) -> None:
    assert len([file for file in path.iterdir() if file.stem not in HIDDEN]) <= MOST_ROOMS_OF.get(
        path.name, MOST_ROOMS
    )


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_go_down(path) -> None:
    own = FLOORS.index(dotted(path).split(".")[0])
    for name in imports(path)[0]:
        assert name, f"{path.name} imports from the top of the package"
        floor = FLOORS.index(name.split(".")[0])
        assert floor <= own, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "gpu").glob("*.py")), ids=dotted)
def test_what_is_for_gpus_knows_the_model_alone(path) -> None:
    own, others = imports(path)
    assert {name.split(".")[0] for name in own} <= {"gpu", "modeling"}
    assert others <= {"torch", "transformers", "triton"} | sys.stdlib_module_names


def test_imports_do_not_go_round_in_circles() -> None:
    """What is imported for the sake of types, or to be saved along, is not imported at all."""
    TopologicalSorter({dotted(path): imports(path, run=True)[0] for path in MODULES}).prepare()


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.stem)
def test_nothing_imports_scripts(path) -> None:
    _, others = imports(path)
    allowed = {"benchmarks"} if path.parent.name == "experiments" else set()  # the stopwatch
    assert not others & ({*OUTSIDE, "tests"} - allowed)


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.stem)
def test_travelling_files_need_nothing_but_torch_and_transformers(path) -> None:
    own, others = imports(path)
    allowed = {"torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names
    assert others <= allowed
    assert all(name.endswith("_bahdanau") for name in own)
    own = {name.removeprefix("modeling.") for name in own}
    text = path.read_text(encoding="utf-8")
    assert "bahdanau_hf" not in text, "the package's name does not travel"
    assert "__future__" not in others, "the library reads annotations as types"
    # The library finds the files to copy by this expression, in docstrings as well.
    found = set(re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE))
    assert found == own
    assert not re.findall(r"^\s*(?:from|import)\s+\.\s", text, flags=re.MULTILINE)


def test_text_knows_no_tensors() -> None:
    assert imports(PACKAGE / "modeling" / "text_bahdanau.py")[1] <= sys.stdlib_module_names


def test_the_suffix_means_travelling() -> None:
    modules = {dotted(path) for path in TRAVELLING}
    assert {dotted(path) for path in MODULES if path.parent.name == "modeling"} - modules == {
        "modeling"
    }
    assert not [path for path in MODULES if path.stem.endswith("_bahdanau")][len(modules) :]
    reached, waiting = set(), ["modeling.modeling_bahdanau"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += imports(PACKAGE / f"{name.replace('.', '/')}.py")[0] - reached
    assert reached == modules, "what the model does not import would stay behind"


def test_what_travels_is_soon_read() -> None:
    """Who trusts a checkpoint's code should be able to read it."""
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in TRAVELLING)
    assert len(TRAVELLING) <= MOST_TRAVELLING_FILES
    assert lines <= MOST_TRAVELLING_LINES


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.stem)
def test_files_are_short_and_well_named(path) -> None:
    most = MOST_LINES_OF.get(path.stem, MOST_LINES)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= most
    assert not EMPTY_NAMES & set(path.stem.split("_")), "name a file after what it does"


def test_no_script_hides_a_library() -> None:
    """A script's folder comes first on the path: `scripts/evaluate.py` would hide `evaluate`."""
    wanted = {name for path in [*MODULES, *SCRIPTS] for name in imports(path)[1]}
    stems = {path.stem for path in SCRIPTS}
    assert not stems & (wanted | sys.stdlib_module_names)


def test_tests_stand_where_they_are_looked_for() -> None:
    """A folder for each package; and what several share is a helper, so that none needs another."""
    tests = ROOT / "tests"
    assert {path.name for path in PACKAGES} <= {path.name for path in tests.iterdir()}
    other = re.compile(
        r"^\s*(?:from|import) (?:tests\.(?!helpers\b|stress\b)|test_|conftest\b)", re.M
    )
    for path in tests.rglob("*.py"):
        assert not other.search(path.read_text(encoding="utf-8")), path
    tested = re.compile(r"^\s*(?:from|import) tests\.stress\.test_", re.M)
    assert not [path for path in tests.rglob("*.py") if tested.search(path.read_text("utf-8"))]


def test_what_is_imported_is_there() -> None:
    """Also by what no test runs: experiments, benchmarks, stress tests."""
    folders = [*(ROOT / name for name in (*OUTSIDE, "examples")), ROOT / "tests" / "stress"]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bahdanau_hf"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


def test_no_path_of_the_machine() -> None:
    home = str(ROOT) + "/"
    folders = (PACKAGE, *(ROOT / name for name in (*OUTSIDE, "configs", "tests")))
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.suffix in {".py", ".md", ".yaml", ".tsv", ".json"}:
            assert home not in path.read_text(encoding="utf-8"), path


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


# What a fresh process has imported after each step.
STEPS = """
import bahdanau_hf
from bahdanau_hf import Alignment, Translation, Translator, train_tokenizer, score_translations
import bahdanau_hf.metrics; from bahdanau_hf.reporting import attention_plot, run_report
"""
HEAVY = {"datasets", "evaluate", "matplotlib", "opencc", "pandas", "pyarrow", "sacrebleu"}


@pytest.fixture(scope="module")
def imported() -> list[set[str]]:
    code = "import sys\n" + "".join(
        f"{step}\nprint(*sys.modules)\n" for step in STEPS.strip().splitlines()
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_import_starts_no_heavy_library(imported) -> None:
    """What is not needed to load and run a model is imported where it is used."""
    assert not imported[0] & HEAVY
    ours = {"inference", "metrics", "reporting", "data", "alignment"}
    assert not imported[0] & {f"bahdanau_hf.{name}" for name in ours}


def test_names_from_the_package_start_no_heavy_library(imported) -> None:
    assert {"bahdanau_hf.inference.translator", "bahdanau_hf.data.tokenization"} <= imported[1]
    assert not imported[1] & HEAVY


def test_metrics_and_pictures_start_no_heavy_library(imported) -> None:
    assert {
        "bahdanau_hf.metrics",
        "bahdanau_hf.reporting.attention_plot",
        "bahdanau_hf.reporting.run_report",
    } <= imported[2]
    assert not imported[2] & HEAVY


@pytest.mark.parametrize("name", bahdanau_hf.__all__)
def test_public_names_are_there(name) -> None:
    assert name in dir(bahdanau_hf)
    assert getattr(bahdanau_hf, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        bahdanau_hf.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["metrics", "data"])
def test_names_that_packages_hand_out_are_there(name) -> None:
    """Users import scores from `metrics`, and the bundled pairs from `data`."""
    package = importlib.import_module(f"bahdanau_hf.{name}")
    assert {"metrics": "score_translations", "data": "bundled_pairs"}[name] in package.__all__
    assert all(getattr(package, public) is not None for public in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
