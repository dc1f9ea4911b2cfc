"""The house rules that a machine can check: floors, names, sizes, and what travels."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import bahdanau_hf

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bahdanau_hf"

# From the bottom up. A module imports from its own floor, without going round in circles, and from
# those below; floor 1 handles text and numbers and does not know the model.
FLOORS: list[str] = [
    """
    batch_bahdanau cache_bahdanau configuration_bahdanau decoder_bahdanau decoding_bahdanau processor_bahdanau
    encoder_bahdanau fused_bahdanau graph_bahdanau kernels_bahdanau layout_bahdanau loss_bahdanau
    modeling_bahdanau packed_bahdanau pipeline_bahdanau products_bahdanau recurrence_bahdanau
    static_bahdanau text_bahdanau
    triton_bahdanau
    """,
    """
    alignment alignment_markup arguments batching charts data errors metrics model_card pair_files
    pair_sources plotting reference_alignments report run_folder score_analysis statistical_aligner
    tokenization translation_metric version word_alignment
    """,
    """
    alignment_quality batch_translation checkpointing ensemble evaluation finishing
    guided_attention hub loading onnx_export preparation processes publishing search_request
    trackers training training_batches training_run training_step translation tutorial
    """,
    """
    __main__ cli command_line demo export_command score_command space
    """,
]
# It travels and knows nothing but text: any floor may use it.
TEXT = "text_bahdanau"
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}

MOST_LINES = 450
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "base", "core"}
TRAVELLING = sorted(PACKAGE.glob("*_bahdanau.py"))
MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")
SCRIPTS = sorted((ROOT / "scripts").glob("*.py")) + sorted((ROOT / "benchmarks").glob("*.py"))


def imports(path: Path) -> tuple[set[str], set[str]]:
    """The package's own modules that a file imports, anywhere in it, and the top-level others."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, *rest = alias.name.split(".")
                own.update(rest[:1]) if first == "bahdanau_hf" else others.add(first)
        elif isinstance(node, ast.ImportFrom):
            first, *rest = (node.module or "").split(".")
            if node.level:
                own.update([first] if first else [alias.name for alias in node.names])
            elif first == "bahdanau_hf":
                own.update(rest[:1] or ["__init__"])
            else:
                others.add(first)
    return own, others


def test_every_module_has_its_floor() -> None:
    assert {path.stem for path in MODULES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down(path) -> None:
    floor = FLOOR_OF[path.stem]
    allowed = {floor} if floor <= 1 else set(range(floor + 1))
    for name in imports(path)[0]:
        assert name == TEXT or FLOOR_OF[name] in allowed, (
            f"{path.name} imports {name} from the wrong floor"
        )


def test_imports_do_not_go_round_in_circles() -> None:
    TopologicalSorter({path.stem: imports(path)[0] for path in MODULES}).prepare()


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.stem)
def test_nothing_imports_scripts(path) -> None:
    _, others = imports(path)
    assert not others & {"scripts", "benchmarks", "tests"}


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.stem)
def test_travelling_files_need_nothing_but_torch_and_transformers(path) -> None:
    own, others = imports(path)
    allowed = {"torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names
    # Checkpoints load without Triton: one file alone asks for it, and is imported when wanted.
    assert others <= allowed | ({"triton"} if path.stem == "kernels_bahdanau" else set())
    assert all(name.endswith("_bahdanau") for name in own)
    text = path.read_text(encoding="utf-8")
    assert "bahdanau_hf" not in text, "the package's name does not travel"
    assert "__future__" not in others, "the library reads annotations as types"
    # The library finds the files to copy by this expression, in docstrings as well.
    found = set(re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE))
    assert found == own
    assert not re.findall(r"^\s*(?:from|import)\s+\.\s", text, flags=re.MULTILINE)


def test_what_any_floor_may_use_knows_no_tensors() -> None:
    assert imports(PACKAGE / f"{TEXT}.py")[1] <= sys.stdlib_module_names


def test_the_suffix_means_travelling() -> None:
    assert [path.stem for path in TRAVELLING] == sorted(FLOORS[0].split())
    reached, waiting = set(), ["modeling_bahdanau"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += imports(PACKAGE / f"{name}.py")[0] - reached
    assert reached == set(FLOORS[0].split()), "what the model does not import would stay behind"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.stem)
def test_files_are_short_and_well_named(path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert not EMPTY_NAMES & set(path.stem.split("_")), "name a file after what it does"


def test_no_script_hides_a_library() -> None:
    """A script's folder comes first on the path: `scripts/evaluate.py` would hide `evaluate`."""
    wanted = {name for path in [*MODULES, *SCRIPTS] for name in imports(path)[1]}
    stems = {path.stem for path in [*SCRIPTS, *(ROOT / "tests").glob("*.py")]}
    assert not stems & (wanted | sys.stdlib_module_names)


def test_no_path_of_the_machine() -> None:
    home = str(ROOT) + "/"
    folders = (PACKAGE, ROOT / "scripts", ROOT / "benchmarks", ROOT / "configs", ROOT / "tests")
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.suffix in {".py", ".md", ".yaml", ".tsv", ".json"}:
            assert home not in path.read_text(encoding="utf-8"), path


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_import_starts_no_heavy_library() -> None:
    """What is not needed to load and run a model is imported where it is used."""
    heavy = ["datasets", "evaluate", "matplotlib", "sacrebleu", "opencc", "pyarrow"]
    code = f"import sys, bahdanau_hf; print([x for x in {heavy} if x in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", bahdanau_hf.__all__)
def test_public_names_are_there(name) -> None:
    assert name in dir(bahdanau_hf)
    assert getattr(bahdanau_hf, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        bahdanau_hf.nothing  # noqa: B018
