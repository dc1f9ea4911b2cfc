"""What a fuzz run tries: a target makes a case of random numbers and judges what came of it.

A right result or an `InputError` of one line is well. A wrong result fails an assertion; any other
exception is a finding as it is. Judges are written apart from what they judge: the pairs of a TSV
file are read again by `split`, a checkpoint's weights compared with those that were saved.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, InputError, cli
from bahdanau_hf.checkpoints.run_folder import seal_checkpoint
from bahdanau_hf.cli import translate
from bahdanau_hf.data.readers import open_pairs
from bahdanau_hf.data.sources import pair_table
from bahdanau_hf.data.tokenization import target_vocab_size
from bahdanau_hf.data.vocabulary import train_tokenizer
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.modeling.pipeline_bahdanau import encode_sentences
from bahdanau_hf.modeling.text_bahdanau import EOS_ID, UNK_ID, clean_text
from tests.helpers.pair_files import WRITERS, Pairs, tsv

from .fuzz_text import damaged, text

MAX_SOURCE_LENGTH = 16
_SENTENCES = ("Call us.", "I know him.", "The tea is hot, isn't it?", "He runs 3 km.")
_TRANSLATIONS = ("联系我们。", "我认识他。", "茶很热，不是吗？", "他跑三公里。")


def check_message(error: Exception, name: str = "") -> None:
    """One line that a terminal can show, and that names what it is about."""
    message = str(error)
    assert message.strip(), "an error without a message"
    assert message.isprintable(), f"a message with control characters: {message!r}"
    assert len(message) < 1000, f"a message of {len(message)} characters"
    assert name in message, f"{message!r} does not name {name}"


class Targets:
    """The targets, and the small model and folder that they need.

    Args:
        folder: an empty folder, for the files of a case.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bpe = train_tokenizer(
            _SENTENCES,
            _TRANSLATIONS,
            vocab_size=340,
            min_frequency=1,
            model_max_length=MAX_SOURCE_LENGTH,
        )
        self.word_char = train_tokenizer(
            _SENTENCES, _TRANSLATIONS, kind="word-char", min_frequency=1
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = {"embedding_size": 8, "hidden_size": 12}
            # Large weights: what an untrained model writes is then of all kinds, bytes among them.
            model = BahdanauForConditionalGeneration(
                BahdanauConfig(
                    vocab_size=target_vocab_size(self.bpe),
                    encoder_vocab_size=len(self.bpe),
                    initializer_range=9.0,
                    **sizes,
                )
            )
        model.generation_config.max_length = 12
        self.translator = Translator(model, self.bpe, batch_size=8, device="cpu")
        self.saved = folder / "saved"
        model.save_pretrained(self.saved)
        self.bpe.save_pretrained(self.saved)
        seal_checkpoint(self.saved)
        self.files = {path.name: path.read_bytes() for path in sorted(self.saved.iterdir())}
        self.weights = load_file(self.saved / "model.safetensors")

    def all(self) -> dict[str, Callable[[Random], bool]]:
        """By name; each tells whether the input was accepted."""
        return {
            "data": self.data,
            "tokenizer": self.tokenizer,
            "config": self.config,
            "translate": self.translate,
            "checkpoint": self.checkpoint,
        }

    # --- the readers -----------------------------------------------------------------------------

    def data(self, random: Random) -> bool:
        """A file of pairs, whole or damaged, of any kind."""
        # Of characters that end no line and no field every kind of file gives back the same.
        pairs = [(_cell(random), _cell(random)) for _ in range(random.randint(1, 5))]
        kind = random.choice(("tsv", "aligned", "wrong", *["any"] * 5))
        if kind == "aligned":
            return self._aligned(random, pairs)
        suffix, write = ("tsv", tsv) if kind == "tsv" else random.choice(WRITERS)
        if suffix in ("tmx", "xlf", "xliff", "xml", "po"):
            pairs = [(_legal(a), _legal(b)) for a, b in pairs]
        content = write(pairs)
        if kind == "wrong":
            suffix, content = "parquet", _wrong_types(random)
        is_whole = random.random() < 0.3
        if not is_whole:
            content = damaged(random, content)
            if random.random() < 0.1:
                suffix = random.choice(
                    ("tsv", "txt", "csv", "ndjson", "parquet", "sgm", "po", "tmx")
                )
        zipped = random.random() < 0.15
        if zipped:
            content = gzip.compress(content, compresslevel=1)
            if random.random() < 0.5:
                content, is_whole = damaged(random, content), False
        path = self.folder / f"pairs.{suffix}{'.gz' if zipped else ''}"
        path.write_bytes(content)
        try:
            found = list(open_pairs(str(path), "en", "zh"))
        except InputError as error:
            check_message(error, path.name)
            is_good = is_whole and kind != "wrong"
            if suffix == "tsv" and not zipped:
                is_good |= _naive_tsv(content) is not None
            if is_good:
                raise AssertionError("refused a good file") from error
            return False
        if is_whole and kind != "wrong":
            assert found == pairs
        if suffix == "tsv" and not zipped and (expected := _naive_tsv(content)) is not None:
            assert found == expected
        _check_pairs(found)
        return True

    def _aligned(self, random: Random, pairs: Pairs) -> bool:
        contents = ["\n".join(side).encode() + b"\n" for side in zip(*pairs, strict=True)]
        if random.random() < 0.7:
            side = random.randrange(2)
            contents[side] = damaged(random, contents[side])
        paths = [self.folder / "a.en", self.folder / "a.zh"]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        lines = [_naive_lines(content) for content in contents]
        is_good = None not in lines and all(lines) and len(lines[0] or ()) == len(lines[1] or ())
        try:
            found = list(open_pairs(",".join(map(str, paths)), "en", "zh"))
        except InputError as error:
            check_message(error)
            if is_good:
                raise AssertionError("refused good files") from error
            return False
        assert is_good
        assert found == list(zip(*lines, strict=True))  # type: ignore[arg-type]
        _check_pairs(found)
        return True

    # --- text and numbers ------------------------------------------------------------------------

    def tokenizer(self, random: Random) -> bool:
        """Any Unicode: cleaned, encoded and decoded."""
        raw = text(random, surrogates=True)
        clean = clean_text(raw)
        assert clean_text(clean) == clean
        assert not any("\ud800" <= char <= "\udfff" for char in clean)
        assert unicodedata.is_normalized("NFC", clean)
        assert clean == clean.strip()
        assert not set(clean) & set("\0\t\n\v\f\r\x1b\x85\u2028\u2029")
        for tokenizer in (self.bpe, self.word_char):
            ids = tokenizer(clean, verbose=False)["input_ids"]
            assert ids[-1] == EOS_ID
            assert all(0 <= i < len(tokenizer) for i in ids)
            assert not set(ids[:-1]) & {0, 1, EOS_ID}, "text became a mark of ours"
            decoded = tokenizer.decode(ids, skip_special_tokens=True)
            if tokenizer is self.bpe:
                assert UNK_ID not in ids
                assert decoded == clean
            decoded.encode()
        return True

    def config(self, random: Random) -> bool:
        """Field values, valid and invalid; what is accepted makes a model that runs."""
        sizes = {"vocab_size": 13, "embedding_size": 4, "hidden_size": 5}
        values: dict[str, Any] = {**sizes}
        for _ in range(random.randint(1, 4)):
            name = random.choice(_FIELDS)
            values[name] = random.choice(
                _LIKELY.get(name, _VALUES) if random.random() < 0.6 else _VALUES
            )
        try:
            config = BahdanauConfig(**copy.deepcopy(values))
        except StrictDataclassError as error:
            check_message(error.__cause__ or error)
            return False
        again = BahdanauConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
        assert again.to_dict() == config.to_dict()
        if max(abs(v) for v in values.values() if isinstance(v, int | float)) > 99:
            return True  # too large to build here
        model = BahdanauForConditionalGeneration(config).eval()
        ids = torch.tensor([[random.randrange(config.encoder_vocab_size or config.vocab_size)]])
        start = config.decoder_start_token_id or 0
        inputs = {"attention_mask": torch.ones_like(ids)}
        inputs["decoder_input_ids"] = torch.full_like(ids, min(start, config.vocab_size - 1))
        logits = model(ids, **inputs).logits
        assert logits.shape == (1, 1, config.vocab_size)
        assert logits.isfinite().all()
        return True

    # --- commands and checkpoints ----------------------------------------------------------------

    def translate(self, random: Random) -> bool:
        """Bytes into `bahdanau-hf translate`: a line in, a line out; what was cut is counted."""
        lines = [text(random).replace("\n", " ").encode() for _ in range(random.randint(0, 4))]
        lines = [damaged(random, line) if random.random() < 0.3 else line for line in lines]
        content = b"\n".join(lines) + (b"\n" if random.random() < 0.5 else b"")
        out, err = io.BytesIO(), io.StringIO()
        arguments = ["translate", "--model", "x", "--batch_size", "4"]
        if random.random() < 0.2:
            arguments += ["--num_beams", "2"]
        if random.random() < 0.2:
            arguments += ["--replace_unknown"]
        with (
            mock.patch.object(translate, "load_translator", return_value=self.translator),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(content))),
            mock.patch.object(sys, "stdout", io.TextIOWrapper(out)),
            mock.patch.object(sys, "stderr", err),
        ):
            status = cli.main(arguments)
            sys.stdout.flush()
            written = out.getvalue()
        said = err.getvalue()
        expected = _naive_lines(content)
        if expected is None:
            assert status == 2, said
            assert said.startswith("bahdanau-hf: error: standard input:"), said
            assert said.count("\n") == 1, said
            return False
        assert status == 0, said
        assert written.count(b"\n") == len(expected)
        texts = [line.decode() for line in written.split(b"\n")[:-1]]
        cut = copied = 0
        for given, result in zip(expected, texts, strict=True):
            (read,) = encode_sentences(self.bpe, [given], MAX_SOURCE_LENGTH, copying=True)
            assert not read.copy or result == read.copy
            copied += bool(read.copy)
            clean = clean_text(given)
            assert clean or not result, "a blank line became a sentence"
            assert len(result.splitlines()) <= 1
            assert "\t" not in result
            is_long = len(self.bpe(clean, verbose=False)["input_ids"]) > MAX_SOURCE_LENGTH
            cut += is_long and not read.copy
        assert said.count("\n") == bool(cut) + bool(copied), said
        assert not copied or f" {copied} of {len(expected)} lines have no word" in said
        assert not cut or f" {cut} of {len(expected)} sentences had more than" in said
        return True

    def checkpoint(self, random: Random) -> bool:
        """A folder of which files are missing, foreign, exchanged, cut or flipped."""
        files = dict(self.files)
        if has_manifest := random.random() < 0.5:
            names = [name for name in files if name != "manifest.json"]
        else:
            del files["manifest.json"]
            names = list(files)
        for _ in range(random.randint(1, 2)):
            name = random.choice(names)
            way = random.randrange(6)
            if way == 0:
                files.pop(name, None)
            elif way == 1:
                files[name] = random.choice(list(self.files.values()))
            elif way == 2:
                files[name] = random.randbytes(random.choice((0, 1, 8, 300)))
            elif way == 3 and name.endswith(".json") and name in files:
                files[name] = _other_value(random, files[name])
            else:
                files[name] = damaged(random, files.get(name, b"{}"))
        case = self.folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        for name, content in files.items():
            (case / name).write_bytes(content)
        try:
            translator = Translator.from_pretrained(case, device="cpu")
            found = translator.translate(["Call us.", ""], max_new_tokens=3)
        except InputError as error:
            check_message(error)
            if files == self.files:
                raise AssertionError("refused a good checkpoint") from error
            return False
        assert [f.source for f in found] == ["Call us.", ""]
        assert len(found[0].text.splitlines()) <= 1
        if has_manifest or files.get("model.safetensors") == self.files["model.safetensors"]:
            state = translator.model.state_dict()
            for name, value in self.weights.items():
                assert torch.equal(state[name], value), f"{name} is not as it was saved"
        return True


# --- files of pairs ------------------------------------------------------------------------------


def _cell(random: Random) -> str:
    cell = text(random)
    for char in "\t\n\r\0\ufeff":
        cell = cell.replace(char, "")
    return cell.lstrip('"')  # a file whose fields all begin with it may be quoted as CSV is


def _legal(cell: str) -> str:
    """What XML can hold of it, and never nothing."""
    return re.sub("[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", cell) or "x"


_TYPED = (
    pa.array([1, 2]),
    pa.array([1.5, None]),
    pa.array([b"\xff", b"a"]),
    pa.array([["a"], []]),
    pa.array([{"en": "a", "zh": "b"}, None]),
    pa.array([None, None]),
    pa.array([2**62, -(2**62)], pa.timestamp("us")),
    pa.array([1, 10**17], pa.timestamp("ns")),
    pa.array([2**31 - 1, 0], pa.date32()),
    pa.array([2**62, 1], pa.duration("us")),
    pa.array(["a", "b"]).dictionary_encode(),
    pa.array(["a", None], pa.large_string()),
    pa.array([[("en", "a")], None], pa.map_(pa.string(), pa.string())),
)


def _wrong_types(random: Random) -> bytes:
    """Parquet whose columns have the right names and any type."""
    names = random.choice((("en", "zh"), ("translation", "id"), ("source", "target", "en")))
    sink = io.BytesIO()
    pq.write_table(pa.table({name: random.choice(_TYPED) for name in names}), sink)
    return sink.getvalue()


def _naive_lines(content: bytes) -> list[str] | None:
    """Lines of a text file, or None if it is none."""
    if b"\0" in content or content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None
    try:
        whole = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if "\n" not in whole:  # as on old Macs
        whole = whole.replace("\r", "\n")
    lines = whole.removesuffix("\n").split("\n") if whole else []
    return [line.removesuffix("\r") for line in lines]


def _naive_tsv(content: bytes) -> Pairs | None:
    """The pairs of a TSV file with the columns en and zh in its first line, if it is one."""
    lines = _naive_lines(content)
    if not lines or lines[0] != "en\tzh" or len(lines) == 1:
        return None
    rows = [line.split("\t") for line in lines[1:]]
    if any(len(row) != 2 and any(field.strip() for field in row) for row in rows):
        return None
    if any(field.startswith('"') for row in rows for field in row):
        return None  # it may be quoted as CSV is
    return [(row[0], row[1]) if len(row) == 2 else ("", "") for row in rows]


def _check_pairs(pairs: Pairs) -> None:
    """What a reader gives fits into a table, and cleaning leaves lines of plain text."""
    assert pairs
    assert len(pair_table(pairs, "en", "zh")) == len(pairs)
    for side in (side for pair in pairs for side in pair):
        assert len(clean_text(side).encode().splitlines()) <= 1


# --- configurations and checkpoints --------------------------------------------------------------

_FIELDS = tuple(
    name for name, value in vars(BahdanauConfig()).items() if name in BahdanauConfig.__annotations__
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 5, 13, -1, 10**12, 2**70, 0.0, 0.5, 1.0, -0.1, 1e-300, 1e300),
    *(
        float("nan"),
        float("inf"),
        "",
        "linear",
        "deep",
        "xavier",
        "0",
        "\n",
        "\ud800",
        [],
        [2],
        [2, 3],
    ),
    *([-1], ["a"], {}, {"a": 1}, (1,), b"x"),
)
_LIKELY: dict[str, tuple[Any, ...]] = {
    "readout": ("linear", "deep"),
    "initializer": ("xavier", "tutorial", "orthogonal"),
    "vocab_size": (1, 4, 13),
    "encoder_vocab_size": (13, 17, None),
    "encoder_layers": (1, 2, 3),
    "decoder_layers": (1, 2, 3),
    "readout_size": (None, 4, 7),
    "attention_hidden_size": (None, 1, 6),
    **{f"{name}dropout": (0, 0.5) for name in ("", "embedding_", "readout_", "attention_")},
    **{f"{name}_token_id": (None, 0, 3, 12, 13, 99) for name in ("pad", "bos", "eos", "unk")},
    "decoder_start_token_id": (None, 0, 3, 12, 13, 99),
    **dict.fromkeys(
        (
            *("bidirectional_encoder", "use_attention", "conditional_gru"),
            *("tie_word_embeddings", "use_cache"),
        ),
        (True, False),
    ),
}


def _other_value(random: Random, content: bytes) -> bytes:
    """A JSON object in which the value of one key is another, or nonsense if it is no object."""
    try:
        values = json.loads(content)
    except ValueError:
        return b"[]"
    if not isinstance(values, dict) or not values:
        return b"7"
    allowed = [value for value in _VALUES if not isinstance(value, bytes | tuple)]
    values[random.choice(list(values))] = random.choice(allowed)
    return json.dumps(values).encode()
