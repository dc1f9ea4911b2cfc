"""The command line; pipes, signals, imports and locale are tried on real processes."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import pytest

from bahdanau_hf import __version__, cli
from bahdanau_hf.cli.options import add_flags, read_dictionary
from bahdanau_hf.files import text_lines
from bahdanau_hf.inference.alignment_error import alignment_quality
from bahdanau_hf.inference.translator import WINDOW_BATCHES, Translator
from bahdanau_hf.metrics.translation import score_translations
from tests.helpers.tiny_checkpoint import LONG, PAIRS

COMMAND = [sys.executable, "-m", "bahdanau_hf"]
# The command must not need what shields it from mojibake or flushes its output for it.
POSIX = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
POSIX.pop("PYTHONUNBUFFERED", None)
TIMEOUT_SECONDS = 120


class Call:
    """Runs the command in this process: standard input as bytes, results as bytes."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes], model: Path
    ) -> None:
        self.monkeypatch, self.capture, self.model = monkeypatch, capture, model

    def __call__(
        self, *arguments: str, stdin: bytes = b"", model: bool = True
    ) -> tuple[int, str, str]:
        command, *rest = arguments
        options = ["--model", str(self.model), "--device", "cpu"] if model else []
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self.capture.readouterr()
        try:
            code = cli.main([command, *options, *rest])
        except SystemExit as exit_:  # argparse
            code = int(exit_.code or 0)
        out, err = self.capture.readouterr()
        return code, out.decode(), err.decode()


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], checkpoint: Path
) -> Call:
    return Call(monkeypatch, capsysbinary, checkpoint)


# --- translate: a true filter --------------------------------------------------------------------

STRANGE_LINES = [
    b"Call us.",
    b"",
    b"Call us.\r",
    b" \t\x0b\x0c ",
    b"I know.\rI know.",
    b"I\x01 love\x1b you.\x07",
    b"\xef\xbb\xbfHe runs.",
    "两个🙂 emoji 👩‍👩‍👧".encode(),
    "line\u2028separators\x85and\u2029more".encode(),
    b"x" * 100_000,
    LONG.encode() * 100,
    b"<eos> <pad> <unk> <0x0A>",
    b"10:30",
    b"Where is the station?",
]


# A process that has imported the command, which takes seconds, and forks into what is asked for.
READY = """
import json, os, socket, sys
import bahdanau_hf.cli

door = socket.socket(fileno=int(sys.argv[1]))
while True:
    asked, pipes, _, _ = socket.recv_fds(door, 1 << 16, 3)
    if not asked:
        break
    child = os.fork()
    if not child:
        door.close()
        for number, pipe in enumerate(pipes):
            os.dup2(pipe, number)
            os.close(pipe)
        code, *sys.argv[1:] = json.loads(asked)  # from here on as `python -c code ...`
        exec(code)
        sys.exit("the code must end the process")
    for pipe in pipes:
        os.close(pipe)
    door.sendall(b"%d" % child)
    door.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
TRANSLATE = "import runpy; runpy.run_module('bahdanau_hf', run_name='__main__', alter_sys=True)"


class Forked:
    """A process with three pipes, used like a `subprocess.Popen`."""

    def __init__(self, door: socket.socket, code: str, *arguments: str) -> None:
        inner, self._door = [], door
        self.stdin, self.stdout, self.stderr = (
            self._pipe(mode, inner) for mode in ("wb", "rb", "rb")
        )
        socket.send_fds(door, [json.dumps([code, *arguments]).encode()], inner)
        for end in inner:
            os.close(end)
        self.pid = int(door.recv(20))

    @staticmethod
    def _pipe(mode: str, inner: list[int]) -> BinaryIO:
        reading, writing = os.pipe()
        ours, theirs = (writing, reading) if mode == "wb" else (reading, writing)
        inner.append(theirs)
        return open(ours, mode)

    def wait(self) -> int:
        return int(self._door.recv(20))


@pytest.fixture(scope="module")
def door() -> Iterator[socket.socket]:
    """Where to ask for a process: the other end of it imports the command once for all."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", READY, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=POSIX,
            # A test run in the background ignores Ctrl-C and hands that on to its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        theirs.close()
        ours.settimeout(TIMEOUT_SECONDS)
        yield ours
    process.wait(TIMEOUT_SECONDS)


@pytest.fixture
def start(door: socket.socket) -> Iterator[Callable[..., Forked]]:
    """Starts a process with code and arguments; killed when it hangs."""
    with ExitStack() as stack:

        def started(code: str, *arguments: str) -> Forked:
            process = Forked(door, code, *arguments)
            timer = threading.Timer(TIMEOUT_SECONDS, os.kill, (process.pid, signal.SIGKILL))
            timer.start()
            stack.callback(timer.cancel)
            for pipe in (process.stdout, process.stderr):
                stack.callback(pipe.close)
            return process

        yield started


def test_a_line_in_is_a_line_out_and_nothing_heavy_is_loaded(
    start: Callable[..., Forked], checkpoint: Path
) -> None:
    code = (
        "from bahdanau_hf.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'datasets', 'evaluate', 'matplotlib', 'sacrebleu', 'pandas', 'pyarrow'};"
        "print('loaded:', sorted(heavy & sys.modules.keys()), file=sys.stderr); sys.exit(status)"
    )
    process = start(code, "translate", "--model", str(checkpoint), "--device", "cpu")
    with process.stdin:
        process.stdin.write(b"\n".join(STRANGE_LINES))  # no newline at the end
    out, err = process.stdout.read(), process.stderr.read()
    assert process.wait() == 0, err
    assert out.endswith(b"\n")
    lines = out.removesuffix(b"\n").split(b"\n")
    assert len(lines) == len(STRANGE_LINES)
    texts = [line.decode() for line in lines]
    assert texts[0] == texts[2] == "联系我们。"
    assert texts[1] == texts[3] == ""
    assert texts[5] == "我爱你。"
    assert texts[6] == "他跑。"
    assert texts[-1] == "车站在哪里？"
    assert not any(char in text for text in texts for char in "\t\r\x0b\x0c\x85\u2028\u2029")
    cut, copied, loaded = err.decode().splitlines()
    assert cut.startswith("bahdanau-hf: ")
    assert copied == "bahdanau-hf: 1 of 14 lines have no word that the model knows, and were copied"
    assert "sentences had more than 24 tokens" in cut
    assert loaded == "loaded: []"


def test_batch_size_one_answers_at_once_and_ctrl_c_is_quiet(
    start: Callable[..., Forked], checkpoint: Path
) -> None:
    process = start(TRANSLATE, "translate", "--model", str(checkpoint), "--batch_size", "1")
    for source, target in (*PAIRS[:3], ("", "")):
        process.stdin.write(f"{source}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline().decode() == f"{target}\n"
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert process.stdout.read() + process.stderr.read() == b""
    process.stdin.close()


def test_a_closed_pipe_ends_it_quietly(start: Callable[..., Forked], checkpoint: Path) -> None:
    process = start(TRANSLATE, "translate", "--model", str(checkpoint), "--batch_size", "2")
    process.stdin.write(b"Call us.\n" * 2 * WINDOW_BATCHES)  # one window, then many
    process.stdin.flush()
    assert process.stdout.readline().decode() == "联系我们。\n"
    process.stdout.close()
    with suppress(BrokenPipeError):
        for _ in range(100):
            process.stdin.write(b"I know.\n" * 10_000)
    assert process.wait() == 141
    assert process.stderr.read() == b""
    with suppress(BrokenPipeError):  # nothing reads it any more
        process.stdin.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Call us.\n".encode("utf-16"), "standard input:1: not UTF-8 (byte 0xff at 1); this looks "
         "like UTF-16: give --encoding utf-16"),
        ("Call us.\nUn café.\n".encode("latin-1"), "standard input:2: not UTF-8 (byte 0xe9 at 7); "
         "this looks like Latin-1 or Windows-1252: give --encoding cp1252"),
        ("我打电话给他。\n".encode("gb18030"), "like GB18030 or GBK: give --encoding gb18030"),
    ],
)  # fmt: skip
def test_input_in_another_encoding_is_refused_or_read(
    call: Call, content: bytes, message: str
) -> None:
    status, _, err = call("translate", stdin=content)
    assert status == 2
    assert err.startswith("bahdanau-hf: error: ")
    assert err.count("\n") == 1
    assert message in err
    encoding = message.rsplit(maxsplit=1)[1]
    text = content.decode(encoding)
    assert call("translate", "--encoding", encoding, stdin=content) == call(
        "translate", stdin=text.encode()
    )


def test_unknown_encodings_are_refused_before_any_model_is_loaded(call: Call) -> None:
    for command in (["translate"], ["score", "--test_file", "x"], ["train"], ["train-tokenizer"]):
        model = ["--model", "/nowhere"] if command[0] in ("translate", "score") else []
        status, out, err = call(*command, *model, "--encoding", "klingon", model=False)
        assert (status, out) == (2, "")
        assert "--encoding 'klingon': no such encoding; known are utf-8," in err
        assert err.count("\n") == 1


def test_byte_order_marks_and_line_ends_do_not_count(call: Call, tmp_path: Path) -> None:
    text = "联系我们。\n我知道。\n他跑。\n我爱你。\n"
    forms = {
        "plain": text.encode(),
        "mark": b"\xef\xbb\xbf" + text.encode(),
        "windows": text.replace("\n", "\r\n").encode("utf-8-sig"),
        "mac": text.replace("\n", "\r").encode(),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "utf-16").write_bytes(text.encode("utf-16"))
    for name in forms:
        for other in ("plain", "mark"):
            pair = ["--predictions", str(tmp_path / name), "--references", str(tmp_path / other)]
            assert json.loads(call("score", *pair, model=False)[1])["bleu"] == pytest.approx(100)
    same = str(tmp_path / "utf-16")
    score = ["score", "--predictions", same, "--references", same, "--encoding", "utf-16"]
    assert json.loads(call(*score, model=False)[1])["bleu"] == pytest.approx(100)
    (tmp_path / "words").write_bytes("\ufeffcall\t打\nus\t我们\n".encode())
    assert read_dictionary(str(tmp_path / "words")) == {"call": "打", "us": "我们"}


@pytest.mark.parametrize(
    ("usage", "given", "value"),
    [
        ("--x", "", False),
        ("--x", "--x", True),
        ("--x TEXT", "", None),
        ("--x TEXT", "--x 1", "1"),
        ("--x N=3", "", 3),
        ("--x N=3", "--x 4", 4),
        ("--x X", "--x .5", 0.5),
        ("--x {a,b}=b", "", "b"),
        ("--x FILE ...", "--x a b", ["a", "b"]),
        ("--x [FILE]", "--x", True),
        ("--x [FILE]", "--x a", "a"),
        ("x FILE", "a", "a"),
        ("x [FILE=-]", "", "-"),
    ],
)
def test_a_flag_is_what_its_usage_says(usage: str, given: str, value: object) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, {usage: "its help"}, ())
    assert parser.parse_args(given.split()).x == value
    assert "its help" in parser.format_help()


@pytest.mark.parametrize(
    ("usage", "given", "complaint"),
    [
        ("--x TEXT", "", "required: --x"),
        ("--x N", "--x 0", "a whole number of at least 1"),
        ("--x {a,b}", "--x c", "invalid choice: 'c'"),
        ("--x FILE ...", "--x", "expected at least one argument"),
    ],
)
def test_a_flag_refuses_what_its_usage_does_not_say(
    usage: str, given: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, {usage: ""}, ["--x"])
    with pytest.raises(SystemExit):
        parser.parse_args(given.split())
    assert complaint in capsys.readouterr().err


def test_windows_do_not_change_the_order(call: Call) -> None:
    assert call("translate") == (0, "", "")
    sources, targets = zip(*(PAIRS * 5), strict=True)
    text = "".join(f"{source}\n" for source in sources).encode()
    for batch_size in ("1", "2", "64"):
        status, out, err = call("translate", "--batch_size", batch_size, stdin=text)
        assert (status, err) == (0, "")
        assert out == "".join(f"{target}\n" for target in targets)


def test_running_text_keeps_its_lines(call: Call, translator: Translator) -> None:
    """Sentence by sentence, whatever is read together; without a line break at its end, too."""
    text = "Call us. I know.\n\n  He runs. We know him." * 5
    expected = translator.translate_text(text).text
    assert expected.count("\n") == text.count("\n")
    for batch_size in ("1", "2", "64"):
        found = call("translate", "--text", "--batch_size", batch_size, stdin=text.encode())
        assert found == (0, expected, "")
    assert call("translate", "--text") == (0, "", "")


def test_a_document_keeps_all_but_its_text(call: Call, tmp_path: Path) -> None:
    page, found = tmp_path / "a.HTML", tmp_path / "b.html"
    page.write_bytes(b"\xef\xbb\xbf<p class='x>y'>Call us.</p>\r\n<pre>Call us.</pre>\r\n")
    wanted = "\ufeff<p class='x>y'>联系我们。</p>\r\n<pre>Call us.</pre>\r\n"
    assert call("translate", str(page), "--output", str(found)) == (0, "", "")
    assert found.read_bytes() == wanted.encode()
    assert call("translate", str(page)) == (0, wanted, "")
    assert call("translate", str(page), "--output", str(page)) == (0, "", "")
    assert page.read_bytes() == wanted.encode()
    assert {path.name for path in tmp_path.iterdir()} == {"a.HTML", "b.html"}


def test_a_file_of_lines(call: Call, tmp_path: Path) -> None:
    lines, found = tmp_path / "a.txt", tmp_path / "found"
    lines.write_bytes(b"Call us.\n\nHe runs.\n<b>I know.\n")
    for flags in ([], ["--text"], ["--n_best", "2"], ["--scores"]):
        expected = call("translate", *flags, stdin=lines.read_bytes())
        assert call("translate", str(lines), *flags) == expected
        assert call("translate", str(lines), "--output", str(found), *flags)[:2] == (0, "")
        assert found.read_text(encoding="utf-8") == expected[1]
    assert call("translate", "-", "--output", os.devnull, stdin=b"Call us.\n") == (0, "", "")
    assert not Path(os.devnull).is_file()


def test_scores_and_alternatives(call: Call, translator: Translator) -> None:
    text = "Call us.\n\nWhere is my tea?\n"
    sources = text.splitlines()
    for flags, options in (
        (["--num_beams", "3"], {"num_beams": 3}),
        (["--num_beams", "3", "--length_penalty", "2"], {"num_beams": 3, "length_penalty": 2.0}),
        (["--max_new_tokens", "2"], {"max_new_tokens": 2}),
    ):
        expected = translator.translate(sources, return_scores=True, **options)
        status, out, _ = call("translate", "--scores", *flags, stdin=text.encode())
        assert status == 0
        rows = [line.split("\t") for line in out.removesuffix("\n").split("\n")]
        assert [row[1] for row in rows] == [t.text for t in expected]
        scores = [float(row[0]) for row in rows]
        assert scores == pytest.approx([t.score for t in expected], abs=1e-3)
        _, sums, _ = call("translate", "--log_probs", *flags, stdin=text.encode())
        rows = [line.split("\t") for line in sums.removesuffix("\n").split("\n")]
        assert [float(row[0]) for row in rows] == pytest.approx(
            [t.log_prob for t in expected], abs=1e-3
        )
        _, plain, _ = call("translate", *flags, stdin=text.encode())
        assert plain.split("\n") == [*(t.text for t in expected), ""]

    several = translator.translate(sources, num_return_sequences=3)
    expected = [(n, t) for n, alternatives in enumerate(several, start=1) for t in alternatives]
    _, out, _ = call("translate", "--n_best", "3", "--scores", stdin=text.encode())
    rows = [line.split("\t") for line in out.removesuffix("\n").split("\n")]
    assert [(row[0], row[2]) for row in rows] == [(str(n), t.text) for n, t in expected]
    assert [float(row[1]) for row in rows] == pytest.approx(
        [t.score for _, t in expected], abs=1e-3
    )
    _, out, _ = call("translate", "--n_best", "3", stdin=text.encode())
    assert out.splitlines() == [f"{number}\t{text}" for number, _, text in rows]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_in_one_line(checkpoint: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "translate", "--model", str(checkpoint)],
            input=b"Call us.\n",
            stdout=full,
            stderr=subprocess.PIPE,
            env=POSIX,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "bahdanau-hf: error: No space left on device\n"


# --- score ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_beams", [1, 3])
def test_score_gives_what_the_metrics_give(
    call: Call, translator: Translator, tmp_path: Path, num_beams: int
) -> None:
    # Of pairs that are scored, none is left out for being unequal.
    pairs = [*PAIRS, ("Where is my tea?", "我的茶在哪里？"), ("He", "他" * 60)]
    path = tmp_path / "test.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in [*pairs, ("He", "")]))
    status, out, err = call("score", "--test_file", str(path), "--num_beams", str(num_beams))
    assert (status, err) == (0, "")
    result = json.loads(out)
    sources, targets = zip(*pairs, strict=True)
    texts = [t.text for t in translator.translate(sources, num_beams=num_beams)]
    expected = score_translations(texts, targets, target_lang="zh").as_dict()
    assert {name: result[name] for name in expected} == expected
    assert 0 < result["bleu"] < 100
    assert "tok:zh" in result["bleu_signature"]
    assert result["num_sentences"] == len(pairs)
    counts = [result[f"num_{name}"] for name in ("empty_pairs_left_out", "truncated", "beams")]
    assert counts == [1, 0, num_beams]
    assert (result["source_lang"], result["target_lang"]) == ("en", "zh")
    assert result["seconds"] > 0


def test_score_tells_sides_apart_as_training_does(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("联系我们。\tCall us.\n我爱你。\tI love you.\n")
    _, by_script, _ = call("score", "--test_file", str(path))
    path.write_text("c\tb\ta\n联系我们。\tCall us.\t1\n我爱你。\tI love you.\t2\n")
    _, by_flag, _ = call(
        "score", "--test_file", str(path), "--source_column", "b", "--target_column", "1"
    )
    shown = "first pair: 'Call us.' -> '联系我们。'"
    for out, how in [
        (by_script, "source: column 2, target: column 1, by their scripts"),
        (by_flag, "source: column 'b', target: column 'c', as the flags say"),
    ]:
        assert json.loads(out)["sides"] == [f"{path}: {how}; {shown}"]
        assert json.loads(out)["bleu"] == json.loads(by_script)["bleu"]


def test_score_turns_chinese_into_one_script(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("opencc")
    path = tmp_path / "test.tsv"
    path.write_text("en\tzh\nCall us.\t聯繫我們。\nDoes she run fast?\t她跑得快嗎？\n")
    _, kept, _ = call("score", "--test_file", str(path))
    _, simplified, _ = call("score", "--test_file", str(path), "--chinese_script", "simplified")
    assert json.loads(kept)["bleu"] < 90
    assert json.loads(simplified)["bleu"] == pytest.approx(100)
    assert json.loads(simplified)["chinese_script"] == "simplified"


def test_score_of_files(call: Call, tmp_path: Path) -> None:
    predictions = ["联系我们。", "", "我爱\u2028你。"]
    columns = [["联系我。", "我知道。", "我爱你。"], ["跟我们联系。", "知道。", "我爱\u2028你。"]]
    files = [tmp_path / name for name in ("predictions", "first", "second")]
    files[0].write_bytes("\r\n".join(predictions).encode())
    for file, column in zip(files[1:], columns, strict=True):
        file.write_bytes("".join(f"{line}\n" for line in column).encode())
    names = [str(file) for file in files]
    assert [*text_lines(names[0])] == predictions
    options = ["score", "--predictions", names[0], "--references", *names[1:]]
    status, out, _ = call(*options, model=False)
    assert status == 0
    references = [list(row) for row in zip(*columns, strict=True)]
    expected = score_translations(predictions, references, target_lang="zh").as_dict()
    result = json.loads(out)
    assert {name: result[name] for name in expected} == expected
    assert "nrefs:2" in result["bleu_signature"]

    _, out, _ = call(*options, "--target_lang", "en", model=False)
    assert "tok:13a" in json.loads(out)["bleu_signature"]
    piped = ["score", "--predictions", "-", "--references", *names[1:]]
    _, out, _ = call(*piped, stdin=files[0].read_bytes(), model=False)
    assert json.loads(out)["bleu"] == expected["bleu"]


def test_score_tells_the_alignment_error_rate(call: Call, translator: Translator) -> None:
    status, out, err = call("score", "--alignments")
    assert status == 0
    assert err.count("\n") == 1  # this model reads short sentences only
    assert "of 150 sentences had more than" in err
    result = json.loads(out)
    expected = alignment_quality(translator)
    assert {name: result[name] for name in expected} == expected
    assert set(result) - set(expected) == {"model"}
    assert result["num_sentences"] == 150


# --- align ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("target", [None, "我们联系。"])
def test_align_writes_every_kind(
    call: Call, translator: Translator, tmp_path: Path, target: str | None, pieces: bool
) -> None:
    options = [] if target is None else ["--target", target]
    tokens = translator.align("Call us.", target).target_tokens
    assert tokens == [*(target or "联系我们。"), "<eos>"]
    if pieces:
        options += ["--tokens"]
    else:  # whole words, of which the end is none
        tokens.pop()
    for kind in ("svg", "html", "txt"):
        path = tmp_path / "maps" / f"map.{kind}"
        status, out, err = call("align", "Call us.", *options, "--output", str(path))
        assert (status, out, err) == (0, "", f"wrote {path}\n")
        text = path.read_text(encoding="utf-8")
        assert all(token.strip("<>") in text for token in [*tokens, "Call"])
        if kind == "svg":
            assert ElementTree.fromstring(text).tag.endswith("svg")
    status, out, err = call("align", "Call us.", *options)
    assert (status, err) == (0, "")
    assert out == (tmp_path / "maps" / "map.txt").read_text(encoding="utf-8")
    assert out.startswith(f"source: Call us.\ntranslation: {target or '联系我们。'}\n")
    heads, *rows = out.partition("\n\n")[2].splitlines()
    assert (heads.split() == ["Call", "us", ".", "(end)"]) == (not pieces)
    assert [line.split()[0] for line in rows] == tokens


def test_align_takes_the_search_and_gives_links_of_several(
    call: Call, translator: Translator
) -> None:
    source = "  Call  us."
    status, out, err = call("align", source, "--links", "--n_best", "3")
    assert (status, err) == (0, "")
    found = json.loads(out)
    expected = translator.translate(source, num_return_sequences=3, return_alignments=True)[0]
    assert [links["target"] for links in found] == [t.text for t in expected]
    assert len(found) > 1
    for own, translation in zip(found, expected, strict=True):
        assert own == translation.alignment.words.as_dict()
        assert own["links"]
        for link in own["links"]:
            assert source[slice(*link["source_span"])] == link["source"]
            assert translation.text[slice(*link["target_span"])] == link["target"]
    _, out, _ = call("align", source, "--links", "--num_beams", "2")
    beams = translator.translate(source, num_beams=2, return_alignments=True)[0]
    assert json.loads(out) == beams.alignment.words.as_dict()
    _, out, _ = call("align", source, "--n_best", "2")
    assert out.count("source: ") == 2  # a table each
    target = "我们 联系。"
    _, out, _ = call("align", source, "--links", "--target", target)
    given = json.loads(out)
    assert (given["source"], given["target"]) == (source, target)
    for link in given["links"]:
        assert source[slice(*link["source_span"])] == link["source"]
        assert target[slice(*link["target_span"])] == link["target"]


def test_align_draws_a_png_or_says_what_it_made_instead(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    status, _, err = call("align", "Call us.", "--output", str(tmp_path / "map.png"))
    assert status == 0
    *hints, wrote = err.splitlines()
    path = Path(wrote.removeprefix("wrote "))
    if path.suffix == ".png":
        assert path.read_bytes().startswith(b"\x89PNG")
        assert hints == []
    else:  # no font here has the characters
        assert path == tmp_path / "map.svg"
        assert len(hints) == 1
        assert hints[0].startswith("bahdanau-hf: ")


# --- mistakes ------------------------------------------------------------------------------------


def test_mistakes_are_one_line_and_status_2(call: Call, tmp_path: Path) -> None:
    (tmp_path / "latin.tsv").write_bytes(b"a\tb\nCaf\xe9\tc\n")
    (tmp_path / "two").write_bytes(b"one\ntwo\n")
    (tmp_path / "bad").write_bytes(b"one\n\xff\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "a.md").write_bytes(b"one\n\xff\n")
    (tmp_path / "a.json").write_bytes(b"one")
    name = {path.name: str(path) for path in tmp_path.iterdir()}
    none = str(tmp_path / "none")
    with_model: list[tuple[list[str], str]] = [
        (["align", " "], "blank"),
        (["align", " ", "--n_best", "2"], "blank"),
        (["align", "a", "--output", "map.gif"], "must end in .png, .svg, .html, .txt"),
        (["align", "a", "--output", "map.svg", "--n_best", "2"], "--output takes one map"),
        (["align", "a", "--target", "b", "--num_beams", "2"], "nothing is searched for"),
        (["score", "--alignments", "--test_file", none], "--alignments goes with --model alone"),
        (["score", "--alignments", "--backward_model", none], "no such folder"),
        (["score", "--test_file", none, "--backward_model", none], "goes with --alignments"),
        (["score"], "give --model and --test_file, or"),
        (["score", "--test_file", none], f"no such file: {none}"),
        (["score", "--test_file", name["latin.tsv"]], "latin.tsv:2: not UTF-8"),
        (["score", "--test_file", none, "--source_lang", "zh"], "trained for source_lang en"),
        (["score", "--predictions", name["two"], "--references", name["two"]], "one of the two"),
        (["translate", "--text", "--scores"], "--text joins sentences: leave out --scores"),
        (["translate", "--n_best", "9", "--num_beams", "5"], "9 translations of a sentence need"),
        (["translate", "a.srt", "--n_best", "2"], "a.srt joins sentences"),
        (["translate", "a.docx"], "a.docx: documents of the kind .docx are not known"),
        (["translate", none], f"cannot read {none}: No such file"),
        (["translate", str(tmp_path)], f"cannot read {tmp_path}: Is a directory"),
        (["translate", name["a.md"]], "a.md:2: not UTF-8"),
        (["translate", name["a.json"]], "a.json: line 1 is not JSON"),
        (["translate", name["two"], "--output", f"{none}/a"], f"cannot write {none}/a: No such"),
        (["translate", name["two"], "--output", str(tmp_path)], "Is a directory"),
        (["translate", "--device", "abacus"], "cannot run on device 'abacus'"),
    ]
    alone: list[tuple[list[str], str]] = [
        (["translate", "--model", none], "no such folder"),
        (["push", none, "a/b", "--space_dir", none], "--space_dir goes with --space static"),
        (["push", none, "a/b", "--space", "static", "--tag", "v1"], "are for models"),
        (["align", "--model", none, "a"], "no such folder"),
        (["score", "--predictions", name["two"]], "needs --references"),
        (["score", "--alignments"], "--alignments goes with --model alone"),
        (["score", "--references", name["two"]], "give --model and --test_file, or"),
        (["score", "--predictions", none, "--references", name["two"]], f"cannot read {none}"),
        (["score", "--predictions", name["bad"], "--references", name["two"]], "bad:2: not UTF-8"),
        (["score", "--predictions", name["two"], "--references", name["two"], name["empty"]], "0"),
        (["score", "--predictions", name["empty"], "--references", name["empty"]], "nothing"),
    ]
    for arguments, message in (*with_model, *alone):
        has_model = (arguments, message) in with_model
        status, out, err = call(*arguments, model=has_model)
        assert (status, out) == (2, ""), arguments
        assert err.startswith("bahdanau-hf: error: "), arguments
        assert err.count("\n") == 1, arguments
        assert message in err, arguments


@pytest.mark.parametrize(
    "line",
    [
        "translate",
        "translate --model x --num_beams 0",
        "translate --model x --n_best many",
        "translate --model x --n_bes 2",
        "align --model x",
        "score --chinese_script runes",
        "juggle",
        "",
    ],
)
def test_wrong_flags_end_with_status_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    assert "bahdanau-hf" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_closed_streams(stream: str, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert cli.main(["translate", "--model", str(checkpoint)]) == 2


def test_version_and_entry_point(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"bahdanau-hf {__version__}\n"
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="bahdanau-hf")
    assert entry.load() is cli.main
