"""From one process to the Hub and from there to another that has never heard of this package.

Each process is a user's: the real clients, told by `HF_ENDPOINT` that a server on the loopback
interface is the Hub, with large files going by LFS or by Xet.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.data.tokenization import load_tokenizer
from bahdanau_hf.hub.model_card import REPO_PLACEHOLDER, write_model_card
from bahdanau_hf.hub.push import release_files
from bahdanau_hf.inference.translator import Translator
from tests.helpers.hub_server import HubServer
from tests.helpers.places import PAIRS as PAIRS_FILE
from tests.helpers.places import ROOT, fingerprint
from tests.helpers.strangers import as_stranger
from tests.helpers.tiny_checkpoint import PAIRS, make_checkpoint
from tests.helpers.tiny_run import flags

pytestmark = pytest.mark.slow

SENTENCES = [source for source, _ in PAIRS]

PUSH_PARTS = """
import sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
import bahdanau_hf
folder, repo = sys.argv[1:]
AutoModelForSeq2SeqLM.from_pretrained(folder).push_to_hub(repo, private=True)
AutoTokenizer.from_pretrained(folder).push_to_hub(repo)
# With the package imported, no flag is needed to load what was pushed.
loaded = AutoModelForSeq2SeqLM.from_pretrained(repo)
assert type(loaded) is bahdanau_hf.BahdanauForConditionalGeneration
"""

STRANGER = """
import json
repo, revision = sys.argv[1:]
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

pinned = {"revision": revision, "trust_remote_code": True}
sentences = json.load(sys.stdin)
answer = {"config": type(AutoConfig.from_pretrained(repo, **pinned)).__name__}
tokenizer = AutoTokenizer.from_pretrained(repo, **pinned)
inputs = tokenizer(sentences, padding=True, return_tensors="pt")
for auto in (AutoModel, AutoModelForSeq2SeqLM):
    model = auto.from_pretrained(repo, **pinned)
    answer[auto.__name__] = model.generate(**inputs, num_beams=3).tolist()
translate = pipeline("translation", model=repo, **pinned)
answer["pipeline"] = translate(sentences, batch_size=5, num_beams=3, return_alignments=True)
answer["snapshot"] = snapshot_download(repo, revision=revision)
print(json.dumps(answer))
"""

PUSH_DATASET = """
import csv, sys
from datasets import Dataset
from bahdanau_hf.data.sources import translation_features
with open(sys.argv[1], encoding="utf-8") as file:
    rows = [{"translation": row} for row in csv.DictReader(file, delimiter="\\t", quoting=3)]
Dataset.from_list(rows, features=translation_features("en", "zh")).push_to_hub(sys.argv[2])
"""


@pytest.fixture(scope="module", params=["lfs", "xet"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubServer]:
    xet = request.param == "xet"
    if xet:
        pytest.importorskip("hf_xet")
    server = HubServer(xet_store=tmp_path_factory.mktemp("xet") if xet else None)
    yield server
    server.close()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkpoint(tmp_path_factory.mktemp("release") / "tea")
    (folder / "alignment.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    write_model_card(folder)
    return folder


def run(
    server: HubServer, *command: object, token: str | None = "hf_alice", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a process in a home of its own; what it says and how it ends is for the caller."""
    home = options.pop("home")
    environment = server.environment(home, token) | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    # Not of this process, whose tests stay at home.
    environment |= {"ACCELERATE_USE_CPU": "true", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        list(map(str, command)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        **options,
    )


def push(server: HubServer, folder: Path, home: Path, *options: str, **how: Any) -> Any:
    script = ROOT / "scripts" / "push_to_hub.py"
    return run(server, sys.executable, script, folder, *options, home=home, **how)


def stranger(server: HubServer, repo: str, revision: str, home: Path) -> dict[str, Any]:
    command = as_stranger(STRANGER, repo, revision)
    asked = json.dumps(SENTENCES)
    done = run(server, *command, home=home, cwd=home.parent, input=asked)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def expected_tokens(folder: Path) -> list[list[int]]:
    model = BahdanauForConditionalGeneration.from_pretrained(folder)
    inputs = load_tokenizer(folder)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.generate(**inputs, num_beams=3).tolist()


def check_stranger(answer: dict[str, Any], release: Path) -> None:
    assert answer["config"] == "BahdanauConfig"
    expected = expected_tokens(release)
    assert answer["AutoModel"] == expected
    assert answer["AutoModelForSeq2SeqLM"] == expected
    translations = Translator.from_pretrained(release, device="cpu").translate(
        SENTENCES, num_beams=3, return_alignments=True
    )
    texts = [found["translation_text"] for found in answer["pipeline"]]
    assert texts == [translation.text for translation in translations]
    for found, translation in zip(answer["pipeline"], translations, strict=True):
        assert found["alignment"]["target_tokens"] == translation.alignment.target_tokens


def test_a_release_travels_to_a_stranger(server: HubServer, release: Path, tmp_path: Path) -> None:
    before = fingerprint(release)
    home = tmp_path / "home"
    first = push(server, release, home, "alice/tea", "--tag", "v1")
    assert first.returncode == 0, first.stderr
    repo = server.repos["model", "alice/tea"]
    again = push(server, release, home, "alice/tea")
    assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert len(repo.commits) == 2, "the second push changed nothing"
    assert fingerprint(release) == before

    # A proposal and a branch differ from what main goes on to hold.
    changed = tmp_path / "changed"
    shutil.copytree(release, changed)
    (changed / "alignment.svg").write_text("<svg/>")
    proposed = push(server, changed, home, "alice/tea", "--create_pr", token="hf_bob")
    assert proposed.stdout.splitlines()[-1] == f"{server.url}/alice/tea/discussions/1"
    branched = push(server, changed, home, "alice/tea", "--revision", "next")
    assert branched.returncode == 0, branched.stderr
    for revision in ("refs/pr/1", "next"):
        assert server.files("alice/tea", revision)["alignment.svg"] == b"<svg/>"
    assert server.files("alice/tea", "v1") == server.files("alice/tea")

    answer = stranger(server, "alice/tea", repo.refs["v1"], tmp_path / "elsewhere")
    check_stranger(answer, release)
    downloaded = fingerprint(Path(answer["snapshot"]))
    assert set(downloaded) == set(release_files(release))
    named = {"README.md", "notebook.ipynb"}  # in which the repository's name is filled in
    assert {n: h for n, h in before.items() if n in downloaded and n not in named} == {
        name: value for name, value in downloaded.items() if name not in named
    }
    for name in named & set(downloaded):
        assert REPO_PLACEHOLDER not in (Path(answer["snapshot"]) / name).read_text("utf-8")


def test_model_and_tokenizer_push_themselves(
    server: HubServer, release: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PUSH_PARTS, release, "alice/parts"]
    done = run(server, *command, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr[-3000:]
    assert server.repos["model", "alice/parts"].private
    answer = stranger(server, "alice/parts", "main", tmp_path / "elsewhere")
    check_stranger(answer, release)


def test_the_hub_command_line(server: HubServer, release: Path, tmp_path: Path) -> None:
    hf, home = Path(sys.executable).with_name("hf"), tmp_path / "home"
    up = run(server, hf, "upload", "alice/by-hand", release, ".", home=home)
    assert up.returncode == 0, up.stderr
    down = run(server, hf, "download", "alice/by-hand", "--local-dir", tmp_path / "got", home=home)
    assert down.returncode == 0, down.stderr
    shutil.rmtree(tmp_path / "got" / ".cache")  # what the client keeps of its own
    assert fingerprint(tmp_path / "got") == fingerprint(release)


def test_training_on_a_data_set_of_the_hub_and_pushing(server: HubServer, tmp_path: Path) -> None:
    """Both ways of reading give a complete repository, pushed at each validation and at the end."""
    home = tmp_path / "home"
    pushed = run(server, sys.executable, "-c", PUSH_DATASET, PAIRS_FILE, "alice/pairs", home=home)
    assert pushed.returncode == 0, pushed.stderr[-3000:]
    data = {"train_file": None, "dataset_name": "alice/pairs", "push_to_hub": True}
    ways = {
        "whole": {"test_file": PAIRS_FILE},
        "stream": {"streaming": True, "validation_file": PAIRS_FILE},
    }
    for name, way in ways.items():
        folder = tmp_path / name
        if name == "stream":
            way["validation_split_percentage"] = None
        arguments = flags(folder, eval_steps=2, **data, **way)
        script = ROOT / "scripts" / "train.py"
        done = run(server, sys.executable, script, *arguments, home=home)
        assert done.returncode == 0, done.stderr[-3000:]
        repo = server.repos["model", f"alice/{name}"]
        messages = list(repo.messages.values())
        assert messages[0] == "initial commit"
        assert messages[1:] == ["Step 2", "Step 4"]
        first = server.files(f"alice/{name}", list(repo.commits)[1])
        last = server.files(f"alice/{name}")
        assert set(first) == set(last) == set(release_files(folder))
        assert last["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        card = last["README.md"].decode()
        assert "datasets:\n- alice/pairs" in card
        assert "](alignment.svg)" in card
        assert done.stdout.splitlines()[-1].startswith(f"{server.url}/alice/{name}/commit/")


def test_a_run_survives_the_loss_of_the_hub(server: HubServer, tmp_path: Path) -> None:
    """What fails on the way is said and left; what fails at the end can be repeated."""
    home, folder = tmp_path / "home", tmp_path / "lost"
    arguments = flags(folder, eval_steps=2, push_to_hub=True)
    server.drop = {"/commit/"}
    try:
        done = run(server, sys.executable, ROOT / "scripts" / "train.py", *arguments, home=home)
    finally:
        server.drop = set()
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "connection failed" in errors[0]
    command = re.search(r"bahdanau-hf (push .*)$", errors[0])
    assert command is not None
    assert "Step 2 was not published" in done.stderr
    before = fingerprint(folder)
    assert server.files("alice/lost") == {}
    words = ["-m", "bahdanau_hf", *command[1].split()]
    again = run(server, sys.executable, *words, home=home, cwd=ROOT)
    assert again.returncode == 0, again.stderr
    assert set(server.files("alice/lost")) == set(release_files(folder))
    assert fingerprint(folder) == before


def test_who_may_not_push_is_told_why(server: HubServer, release: Path, tmp_path: Path) -> None:
    before = fingerprint(release)
    for token, reason in {None: "hf auth login", "hf_bob": "write access"}.items():
        done = push(server, release, tmp_path / "home", "alice/no", token=token)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert reason in done.stderr
    assert fingerprint(release) == before
    assert ("model", "alice/no") not in server.repos


def test_a_hub_that_is_not_there_is_asked_once(
    server: HubServer, release: Path, tmp_path: Path
) -> None:
    """No repetitions, in any command; and what was fetched before is there without it."""
    (tmp_path / "test.tsv").write_text("en\tzh\nCall us.\t联系我们。\n", encoding="utf-8")
    assert push(server, release, tmp_path / "home", "alice/kept").returncode == 0
    fetched = ["-m", "bahdanau_hf", "align", "--model", "alice/kept", "Call us."]
    first = run(server, sys.executable, *fetched, home=tmp_path / "home", cwd=tmp_path)
    environment = server.environment(tmp_path / "home") | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for words, expected in (
        (fetched, first.stdout),
        (["-m", "bahdanau_hf", "align", "--model", "runs/nothing", "Call us."], None),
        (["-m", "bahdanau_hf", "score", "--model", "a/b", "--test_file", "test.tsv"], None),
        (["-m", "bahdanau_hf", "train", "tiny", "--model_name_or_path", "a/b"], None),
        (["-m", "bahdanau_hf", "train", "tiny", "--tokenizer_name", "a/b"], None),
    ):
        command = [sys.executable, *words, *(["--output_dir", "x"] if "train" in words else [])]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        if expected is None:
            assert done.returncode == 2, words
            assert re.search(r"no folder [^\n]+ cannot be read: [^\n]+\n$", done.stderr), words
            assert done.stderr.count("\n") == 1, done.stderr
        else:
            assert (done.returncode, done.stdout) == (0, expected)
            assert "联系我们" in expected
