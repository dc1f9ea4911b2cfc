"""The README is true: its Python runs, its commands are understood, its links lead somewhere."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bahdanau_hf.cli import main as command
from bahdanau_hf.cli.export import add_export_flags
from bahdanau_hf.training.arguments import parse_arguments
from tests.helpers.tiny_checkpoint import PAIRS, make_checkpoint

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def shell_lines() -> list[str]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


TRAINING = [line for line in shell_lines() if "scripts/train.py" in line]
MAKE = [line for line in shell_lines() if line.startswith("make ")]
EXPORTING = [line for line in shell_lines() if line.startswith("bahdanau-hf export ")]
USING = [line for line in shell_lines() if "bahdanau-hf " in line and line not in EXPORTING]
PUSHING = [line for line in shell_lines() if line.startswith("python scripts/push_to_hub.py")]
SHOWING = [
    line
    for line in shell_lines()
    if re.match(r"python (scripts/app|examples/\w+(/\w+)?)\.py", line)
]
INSTALLING = [line for line in shell_lines() if line.startswith("pip install ")]
SERVING = [line for line in shell_lines() if line.startswith("python -m http.server ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README speaks of; its model knows the README's sentences by heart."""
    folder = tmp_path_factory.mktemp("clone")
    make_checkpoint(folder / "runs" / "quickstart")
    for name in ("base", "seed-42", "seed-43"):
        (folder / "runs" / name).symlink_to("quickstart", target_is_directory=True)
    (folder / "sentences.txt").write_text("".join(f"{en}\n" for en, _ in PAIRS[:3]))
    (folder / "README.md").write_text("")
    rows = "".join(f"{en}\t{zh}\n" for en, zh in PAIRS)
    (folder / "test.tsv").write_text(f"en\tzh\n{rows}", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def there(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def test_every_command_is_of_a_known_kind() -> None:
    kinds = (TRAINING, MAKE, USING, PUSHING, SHOWING, EXPORTING, INSTALLING, SERVING)
    assert sorted(line for kind in kinds for line in kind) == sorted(shell_lines())
    assert min(map(len, kinds)) > 0


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("python")[number].replace("OWNER/NAME", "runs/quickstart")
    exec(compile(code, f"README, block {number}", "exec"), {})
    printed = capsys.readouterr().out
    if number == 0:
        assert printed.splitlines() == [
            "Where is the station? → 车站在哪里？",
            "It will rain tomorrow. → 明天会下雨。",
            "['车站在哪里？', '联系我们。']",
        ]
    elif number == 1:
        assert printed.startswith("联系我们。 -")
        assert printed.splitlines()[-3:] == [zh for _, zh in PAIRS[:3]]
    elif "trainer.evaluate()" in code:
        assert float(printed.splitlines()[-1]) == pytest.approx(100)
    elif 'pipeline("translation"' in code and "trust_remote_code" in code:
        assert "联系我们。" in printed.splitlines()[0]


@pytest.mark.parametrize("line", USING)
def test_commands_that_use_a_model(
    line: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    *before, after = line.split(" | ")
    words, _, source = after.partition(" < ")
    text = Path(source).read_bytes() if source else b""
    if before:
        text = subprocess.run(shlex.split(before[0]), capture_output=True, check=True).stdout
    Path("input").write_bytes(text)
    with open("input", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert command(shlex.split(words)[1:]) == 0
    printed = capfdbinary.readouterr().out.decode()
    if before:
        assert printed == "车站在哪里？\n"
    elif " score " in line:
        assert json.loads(printed)["bleu"] == pytest.approx(100)
    elif " align " in line:
        assert "联" in Path("map.svg").read_text(encoding="utf-8")
    else:
        assert "联系我们。" in printed.splitlines()[0]


@pytest.mark.parametrize("line", TRAINING)
def test_training_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    launch, _, arguments = line.partition(" scripts/train.py ")
    *_, train = parse_arguments(shlex.split(arguments))
    assert train.output_dir.startswith("runs/")
    from accelerate.commands.launch import launch_command_parser

    launcher = shlex.split(launch)
    assert launcher[:2] == ["accelerate", "launch"]
    launch_command_parser().parse_args([*launcher[2:], "script"])


@pytest.mark.parametrize("line", PUSHING)
def test_push_commands_are_understood(line: str) -> None:
    arguments = shlex.split(line)[2:]
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import push_to_hub
    finally:
        sys.path.pop(0)
    assert push_to_hub.parse_arguments(arguments).repo_id == "OWNER/NAME"


@pytest.mark.parametrize("line", SHOWING)
def test_scripts_know_the_flags(line: str) -> None:
    _, path, *rest = shlex.split(line)
    text = (ROOT / path).read_text(encoding="utf-8")
    flags = [word for word in rest if word.startswith("--")]
    assert all(f'"{flag}"' in text for flag in flags), flags


@pytest.mark.parametrize("line", EXPORTING)
def test_export_commands_are_understood(line: str) -> None:
    parser = argparse.ArgumentParser()
    add_export_flags(parser)
    assert parser.parse_args(shlex.split(line)[2:]).output_dir == "exported"


@pytest.mark.parametrize("line", INSTALLING)
def test_extras_exist(line: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.search(r"\[(\w+)\]", line)[1] in extras["optional-dependencies"]


def test_make_targets_and_recipes_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    spoken_of = set(
        re.findall(r"`make ([a-z ]+)`", README + (ROOT / "CONTRIBUTING.md").read_text())
    )
    words = {word for line in spoken_of for word in line.split()}
    assert words | {line.split()[1] for line in MAKE} <= targets
    recipes = set(re.findall(r"configs/\w+\.yaml", README))
    assert recipes == {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_pictures_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            assert (ROOT / (path or name)).is_file(), link
            assert not anchor or anchor in anchors(ROOT / (path or name)), link


@pytest.mark.slow
def test_training_command_runs(workplace: Path) -> None:
    """The README's first training command, cut short; the others differ in flags only."""
    arguments = shlex.split(TRAINING[0].partition(" scripts/train.py ")[2])
    output_dir = workplace / "runs" / "mine"
    arguments += ["--output_dir", str(output_dir), "--max_train_steps", "4", "--eval_steps", "4"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "scripts/train.py"]
    done = subprocess.run(
        [*launch, *arguments, "--max_eval_samples", "8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (output_dir / "report.html").is_file()
    assert (output_dir / "README.md").is_file()


def test_it_says_how_many_lines_travel() -> None:
    files = sorted((ROOT / "bahdanau_hf" / "modeling").glob("*_bahdanau.py"))
    total = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    said = re.search(r"runs the (\w+) Python files that travel .*, ([\d,]+) lines", README)
    assert said is not None
    assert said.groups() == ("eight", f"{total:,}")
    assert len(files) == 8
