"""What is declared is what is used: dependencies, pins, versions, and what an install carries."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import resources
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bahdanau_hf import __version__
from bahdanau_hf.cli import COMMANDS
from tests.helpers.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BASE = [Requirement(text) for text in PROJECT["dependencies"]]
DIRECT = BASE + [Requirement(text) for extra in EXTRAS.values() for text in extra]


def read_pins(name: str) -> dict[str, str]:
    """The exact version of each distribution in a file of constraints."""
    pins = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            [specifier] = Requirement(line).specifier
            assert specifier.operator == "=="
            pins[canonicalize_name(Requirement(line).name)] = specifier.version
    return pins


PINS = read_pins("constraints.txt")
OLDEST = read_pins("constraints-oldest.txt")


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def brings(name: str, extras: frozenset[str]) -> set[tuple[str, frozenset[str]]]:
    """What an installed distribution asks for here, with the extras that it wants of each."""
    found = set()
    for requirement in map(Requirement, requires(name) or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            found.add((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def test_pins_leave_nothing_to_choose() -> None:
    """What is installed at its pin brings pinned packages only; torch's build chooses its CUDA."""
    waiting = {(canonicalize_name(item.name), frozenset(item.extras)) for item in DIRECT}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        seen.add((name, extras))
        assert name in PINS, "run `make pins`"
        try:
            at_its_pin = Version(version(name)).public == PINS[name]
        except PackageNotFoundError:  # of an extra that is not installed here
            continue
        if at_its_pin:  # another version, as in `make test-oldest`, may bring something else
            brought = brings(name, extras) - seen
            waiting |= {item for item in brought if not item[0].startswith(("cuda-", "nvidia-"))}


def test_torch_is_the_release_that_is_tested() -> None:
    assert PINS["torch"] == "2.13.0"


@pytest.mark.parametrize("extra", ["base", "plot", "zh"])
def test_lower_bounds_are_those_of_the_oldest_versions_tried(extra: str) -> None:
    for requirement in BASE if extra == "base" else map(Requirement, EXTRAS[extra]):
        [lowest] = [part for part in requirement.specifier if part.operator == ">="]
        oldest = OLDEST[canonicalize_name(requirement.name)]
        assert Version(oldest) == Version(lowest.version), requirement.name


def imported(folder: str) -> set[str]:
    """Top-level names of the absolute imports under a folder, those inside functions too."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"bahdanau_hf"}


@pytest.mark.parametrize("folder", ["bahdanau_hf", "scripts"])
def test_everything_imported_is_declared(folder: str) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in DIRECT}
    declared.add("triton")  # of torch's builds for CUDA; looked for before it is imported
    distributions = packages_distributions()
    for name in sorted(imported(folder)):
        providers = {canonicalize_name(found) for found in distributions.get(name, [name])}
        assert providers & declared, f"{name} is imported, but pyproject.toml does not ask for it"


def test_extras_are_the_promised_ones() -> None:
    assert set(EXTRAS) == {
        "dev",
        "demo",
        "trackers",
        "plot",
        "zh",
        "onnx",
        "documents",
        "browser",
        "docs",
        "notebooks",
    }
    assert PROJECT["scripts"] == {"bahdanau-hf": "bahdanau_hf.cli:main"}


def test_supported_pythons_are_the_same_everywhere() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    minors = [minor for minor in range(8, 20) if supported.contains(f"3.{minor}.0")]
    assert minors == [11, 12, 13, 14]
    makefile = (ROOT / "Makefile").read_text()
    assert f"(3, {minors[0]}) <= sys.version_info[:2] <= (3, {minors[-1]})" in makefile
    named = [name for name in PROJECT["classifiers"] if ":: 3." in name]
    assert named == [f"Programming Language :: Python :: 3.{minor}" for minor in minors]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert f'python: ["3.{minors[0]}", "3.{minors[-1]}"]' in workflow


def test_changelog_knows_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[:2] == ["Unreleased", __version__]


def test_card_template_is_one_file() -> None:
    inside = resources.files("bahdanau_hf").joinpath("model_card.md").read_text("utf-8")
    assert inside == (ROOT / "model_card.md").read_text(encoding="utf-8")
    # A symbolic link: a second copy would go its own way.
    assert (ROOT / "bahdanau_hf" / "model_card.md").is_symlink()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no file of an earlier build gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bahdanau_hf", source / "bahdanau_hf", symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE", "model_card.md"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True)
    [path] = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_carries_what_is_no_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        template = archive.read("bahdanau_hf/model_card.md")
    assert template == (ROOT / "model_card.md").read_bytes()
    files = (path for path in (ROOT / "bahdanau_hf").rglob("*") if path.is_file())
    here = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    assert {name for name in names if name.startswith("bahdanau_hf/")} == here
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"bahdanau_hf", f"bahdanau_hf-{__version__}.dist-info"}


@pytest.mark.slow
def test_an_installed_wheel_is_all_it_takes(wheel: Path, tmp_path: Path) -> None:
    """Away from the clone, in an environment that has the dependencies and the wheel."""
    environment, work = tmp_path / "environment", tmp_path / "work"
    work.mkdir()
    venv.create(environment, with_pip=False)
    python = str(environment / "bin" / "python")
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # The dependencies alone: what their folder's own .pth files point to, the clone, stays unseen.
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str, text: str = "") -> str:
        done = subprocess.run(
            [str(environment / "bin" / "bahdanau-hf"), *words]
            if words[0] in COMMANDS
            else [python, *words],
            cwd=work,
            env=variables | {"OMP_NUM_THREADS": "1"},
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    where = run("-c", "import bahdanau_hf; print(bahdanau_hf.__file__)")
    assert Path(where.strip()) == purelib / "bahdanau_hf" / "__init__.py"
    short = ["tiny", "--max_train_steps=5", "--max_train_samples=300", "--max_eval_samples=8"]
    short += ["--num_beams=1", "--max_target_length=12"]
    assert "Model, scores and report: runs/tiny" in run("train", *short)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    launched = ["-m", "bahdanau_hf.train", *short, "--output_dir=runs/launched"]
    assert "Model, scores and report: runs/launched" in run(*launch, *launched)
    one, other = (work / "runs" / name / "model.safetensors" for name in ("tiny", "launched"))
    assert one.read_bytes() == other.read_bytes()
    model = ["--model", "runs/tiny"]
    assert run("translate", *model, text="Hello.\n\nGood night.\n").count("\n") == 3
    (work / "pairs.tsv").write_text("Hello.\t你好。\n", encoding="utf-8")
    assert json.loads(run("score", *model, "--test_file", "pairs.tsv"))["num_sentences"] == 1
    run("align", *model, "Hello.", "--output", "map.svg")
    assert (work / "map.svg").read_text(encoding="utf-8").startswith("<svg")
    assert "model.safetensors" in run("push", "runs/tiny", "me/mine", "--dry_run")
    assert f"bahdanau-hf: {__version__}" in run("env")
    run("train-tokenizer", "tiny", "--max_train_samples=300", "--output_dir=tokenizer")
    assert (work / "tokenizer" / "tokenizer.json").is_file()
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        run("export", *model, "--output_dir", "exported")
        assert list((work / "exported").glob("*.onnx"))
    if find_spec("gradio"):
        run("demo", *model, "--space_dir", "space")
        assert (work / "space" / "bahdanau_hf" / "recipes" / "tiny.yaml").is_file()
