"""The exported graphs against the model, and the search outside against `generate`."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bahdanau_hf import BahdanauForConditionalGeneration, cli
from bahdanau_hf.data.sources import bundled_pairs, pair_texts
from bahdanau_hf.data.tokenization import clean_text, load_tokenizer
from bahdanau_hf.errors import InputError
from bahdanau_hf.export import onnx_export
from bahdanau_hf.export.onnx_comparison import TwoGraphs, compare_translations
from bahdanau_hf.export.onnx_export import (
    DECODER_FILE,
    ENCODER_FILE,
    _graphs,
    export_onnx,
    translation_settings,
)
from bahdanau_hf.export.onnx_int8 import quantize
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.metrics.translation import score_translations
from bahdanau_hf.modeling.text_bahdanau import CODE
from tests.helpers.batches import random_source
from tests.helpers.exported_checkpoint import EXAMPLE, Exported
from tests.helpers.places import ROOT, load_program
from tests.helpers.tiny_checkpoint import LONG, PAIRS, SENTENCES, make_checkpoint
from tests.helpers.tiny_model import VARIANTS, make_config

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")

# Batch, source length, steps; none as in the batch that was traced.
SHAPES = [(1, 1, 3), (1, 9, 2), (4, 6, 5), (5, 13, 3)]


class Graphs:
    """The two graphs, run one step after the other with known inputs."""

    def __init__(self, encoder: Any, decoder: Any) -> None:
        def session(graph: Any) -> Any:
            content = graph.SerializeToString() if hasattr(graph, "graph") else str(graph)
            return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

        self.encoder, self.decoder = session(encoder), session(decoder)

    def read(self, ids: Tensor, mask: Tensor) -> dict[str, np.ndarray]:
        names = [output.name for output in self.encoder.get_outputs()]
        inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return dict(zip(names, self.encoder.run(None, inputs), strict=True))

    def run(self, ids: Tensor, mask: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits `(B, T, V)` and attention `(B, T, S)`."""
        memory = self.read(ids, mask)
        all_logits, all_weights = [], []
        for tokens in target.split(1, dim=1):
            logits, memory["state"], *weights = self.decoder.run(
                None, {"input_ids": tokens.numpy(), **memory}
            )
            all_logits.append(torch.from_numpy(logits))
            all_weights += map(torch.from_numpy, weights)
        return (
            torch.stack(all_logits, dim=1),
            torch.stack(all_weights, dim=1) if all_weights else None,
        )


def batch(model: Any, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Random sources and random targets."""
    B, S, T = shape
    ids, mask = random_source(model, B, S)
    return ids, mask, torch.randint(model.config.vocab_size, (B, T))


@torch.no_grad()
def assert_same(graphs: Graphs, model: Any, shape: tuple[int, int, int]) -> None:
    ids, mask, target = batch(model, shape)
    expected = model(ids, mask, decoder_input_ids=target, output_attentions=True)
    logits, weights = graphs.run(ids, mask, target)
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-5)
    if not model.config.use_attention:
        assert weights is None
        return
    assert weights is not None
    torch.testing.assert_close(weights, expected.cross_attentions[0][:, 0], rtol=0, atol=1e-5)
    assert not weights[~mask.bool()[:, None].expand_as(weights)].any()


# --- the graphs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_exported_model_is_the_model(exported: Exported, shape: tuple[int, int, int]) -> None:
    graphs = Graphs(exported.folder / ENCODER_FILE, exported.folder / DECODER_FILE)
    assert_same(graphs, exported.model, shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        *VARIANTS.values(),
        {"encoder_layers": 3, "decoder_layers": 3},
        {"encoder_layers": 3, "decoder_layers": 1, "readout": "deep"},
        {"encoder_reads_padding": True},
        {
            "bidirectional_encoder": False,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "readout": "deep",
            "use_attention": False,
        },
    ],
    ids=str,
)
def test_every_kind_of_model_is_exported(changes: dict[str, Any]) -> None:
    model = BahdanauForConditionalGeneration(make_config(**changes)).eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    graphs = Graphs(*_graphs(model))
    for shape in SHAPES:
        assert_same(graphs, model, shape)
    assert model.state_dict().keys() == before.keys(), "the model was left as it is"


def test_what_stands_in_the_padding_reaches_nothing(exported: Exported) -> None:
    graphs = Graphs(exported.folder / ENCODER_FILE, exported.folder / DECODER_FILE)
    ids, mask, _ = batch(exported.model, (4, 7, 1))
    other = ids.where(mask.bool(), (ids + 5) % exported.model.config.encoder_vocab_size)
    read, same = graphs.read(ids, mask), graphs.read(other, mask)
    for name, values in read.items():
        np.testing.assert_array_equal(values, same[name], err_msg=name)
    assert not read["annotations"][mask.numpy() == 0].any()
    for row in range(len(ids)):
        real = mask[row].bool()
        alone = graphs.read(ids[row : row + 1, real], torch.ones_like(ids[row : row + 1, real]))
        for name in ("annotations", "keys", "bias"):
            values = read[name][row][real.numpy()]
            np.testing.assert_allclose(values, alone[name][0], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(read["state"][row], alone["state"][0], atol=1e-6)


def test_eight_bits_are_a_fourth_and_know_what_was_learnt(exported: Exported) -> None:
    whole = [onnx.load(exported.folder / name) for name in (ENCODER_FILE, DECODER_FILE)]
    sizes = [len(graph.SerializeToString()) for graph in whole]
    small = [quantize(graph) for graph in whole]
    floats = [
        sum(np.prod(x.dims) for x in graph.graph.initializer if x.data_type == 1) for graph in small
    ]
    assert all(n < 0.05 * size / 4 for n, size in zip(floats, sizes, strict=True)), floats
    graphs, tokenizer = Graphs(*small), exported.translator.tokenizer
    for source, target in PAIRS[:6]:
        ids = torch.tensor([tokenizer(source)["input_ids"]])
        labels = torch.tensor([tokenizer(text_target=target)["input_ids"]])
        start = torch.cat([torch.tensor([[1]]), labels[:, :-1]], dim=1)
        logits, _ = graphs.run(ids, torch.ones_like(ids), start)
        assert logits.argmax(dim=-1).tolist() == labels.tolist()


# --- the search ----------------------------------------------------------------------------------


def generated(exported: Exported, ids: list[list[int]], **options: Any) -> list[list[int]]:
    """Tokens by `generate`, one sentence after the other, up to the end."""
    found = []
    for row in ids:
        output = exported.model.generate(torch.tensor([row]), **options)[0, 1:].tolist()
        end = next((i for i, token in enumerate(output) if token == 2), len(output))
        found.append(output[: end + 1])
    return found


@pytest.mark.parametrize(
    ("num_beams", "early_stopping", "length_penalty"),
    [(1, False, 1.0), *product([2, 5], [False, True, "never"], [0.0, 1.0, 2.5, -1.0])],
)
@pytest.mark.grid
def test_the_search_outside_is_that_of_generate(
    exported: Exported, num_beams: int, early_stopping: bool | str, length_penalty: float
) -> None:
    outside = load_program(EXAMPLE).OnnxTranslator(exported.folder, 1)
    # Nothing the model has learnt: then beams part, end early or meet the limit.
    ids = [[*torch.randint(4, 60, (n,)).tolist(), 2] for n in (1, 3, 4, 9)]
    options = {"max_new_tokens": 11, "length_penalty": length_penalty}
    options["early_stopping"] = early_stopping
    outside.settings |= options
    beam_options = options if num_beams > 1 else {"max_new_tokens": 11}
    expected = generated(exported, ids, num_beams=num_beams, max_length=None, **beam_options)
    assert outside.generate(ids, num_beams) == expected


def test_sentences_come_out_as_from_the_translator(exported: Exported) -> None:
    outside = load_program(EXAMPLE).OnnxTranslator(exported.folder, 1)
    for num_beams in (None, 1, 4):
        found = outside.translate(SENTENCES, num_beams, batch_size=5)
        assert found == [t.text for t in exported.translator.translate(SENTENCES, num_beams)]
    assert 2 not in outside.encode("I <eos>")[0][:-1], "typed marks are text"


COPIED = ["42", " -\t- ", "😀?", "a.b@c.de", "see(https)", "x_1 = 2;", "Привет", "3  4", "?" * 9999]


def test_what_holds_no_words_is_copied(exported: Exported) -> None:
    program = load_program(EXAMPLE)
    assert program.CODE.pattern == CODE.pattern
    found = program.OnnxTranslator(exported.folder, 1).translate(COPIED)
    translations = exported.translator.translate(COPIED)
    assert found == [t.text for t in translations]
    assert all(t.copied for t in translations)


def test_the_browser_knows_words_alike() -> None:
    program = (ROOT / "bahdanau_hf/demo/browser/translator.js").read_text(encoding="utf-8")
    pattern = CODE.pattern.replace("(?a:", "(?:").replace('\\"', '"').replace("/", "\\/")
    assert f"/{pattern}/g;" in program


def test_what_is_cut_is_said(exported: Exported) -> None:
    texts = ["Call us.", LONG, "a" * 10**5, "42"]
    translator = load_program(EXAMPLE).OnnxTranslator(exported.folder, 1)
    translator.translate(texts)
    truncated = [t.truncated for t in exported.translator.translate(texts)]
    assert translator.cut == [n for n, cut in enumerate(truncated, start=1) if cut] == [2, 3]
    translator.translate(texts[:1])
    assert translator.cut == []


@pytest.mark.parametrize("lines", [0, 1, 3000])
def test_as_a_filter(exported: Exported, lines: int) -> None:
    """Nothing comes out where nothing goes in, and a reader that leaves is no mistake."""
    command = [sys.executable, str(ROOT / EXAMPLE), str(exported.folder), "--num_threads", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(b"Call us. 42\n" * min(lines, 1) + b"42\n" * 20 * max(0, lines - 1))
        process.stdin.close()
        first = process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == (141 if lines > 1 else 0)
    assert bool(first) == (lines > 0)


def test_it_runs_without_pytorch_and_transformers(exported: Exported) -> None:
    block = (
        "import sys, runpy\n"
        "for name in ('torch', 'transformers', 'bahdanau_hf'): sys.modules[name] = None\n"
        f"sys.argv = ['onnx_translate.py', {str(exported.folder)!r}, '--num_threads', '1']\n"
        f"runpy.run_path({str(ROOT / EXAMPLE)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", block],
        input="".join(f"{text}\n" for text in SENTENCES).encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    expected = [t.text for t in exported.translator.translate(SENTENCES)]
    assert done.stdout.decode().splitlines() == expected
    assert re.fullmatch(r"onnx_translate: 1 of 20 .* is number 2\n", done.stderr.decode())


def test_text_is_cleaned_alike() -> None:
    outside = load_program(EXAMPLE).clean_text
    for code in [*range(0x11000), *range(0xE0000, 0xE0100)]:
        text = f" a{chr(code)}b{chr(code)}  "
        assert outside(text) == clean_text(text), hex(code)


@pytest.mark.parametrize("broken", ["missing", "format"])
def test_what_is_no_export_is_refused(exported: Exported, tmp_path: Path, broken: str) -> None:
    if broken == "format":
        for path in exported.folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "translation.json").write_text('{"format": 0}')
    with pytest.raises(
        ValueError, match="no translation.json" if broken == "missing" else "format 0"
    ):
        load_program(EXAMPLE).OnnxTranslator(tmp_path)


# --- the command ---------------------------------------------------------------------------------


def test_settings_are_those_of_the_checkpoint(exported: Exported) -> None:
    found = json.loads((exported.folder / "translation.json").read_text(encoding="utf-8"))
    expected = {
        **{"format": 1, "source_lang": "en", "target_lang": "zh", "dtype": "float32"},
        **{"num_beams": 1, "max_new_tokens": 29, "length_penalty": 1.0, "early_stopping": False},
        **{"decoder_start_token_id": 1, "eos_token_ids": [2], "pad_token_id": 0},
        **{"max_source_length": 24, "cut_keeps_end": True, "pad_source_to": None},
    }
    assert found == expected


def test_a_setting_that_the_search_does_not_know_is_refused(exported: Exported) -> None:
    translator = Translator.from_pretrained(exported.checkpoint, device="cpu")
    translator.model.generation_config.repetition_penalty = 1.2
    with pytest.raises(InputError, match="does not know repetition_penalty: take it out"):
        translation_settings(translator.model, translator.tokenizer)


def test_mistakes_are_told_in_one_line(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "file").write_text("")
    model, tokenizer = exported.model, exported.translator.tokenizer
    with pytest.raises(InputError, match=r"cannot write .*file: File exists"):
        export_onnx(model, tokenizer, tmp_path / "file")
    with pytest.raises(InputError, match="dtype must be one of float32, int8, not 'int4'"):
        export_onnx(model, tokenizer, tmp_path, dtype="int4")
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnx" else name)
    command = ["export", "--model", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert cli.main(command) == 2
    message = "bahdanau-hf: error: exporting needs onnx: pip install 'bahdanau-hf[onnx]'\n"
    assert capsys.readouterr().err == message


def test_what_an_export_changes_is_told_of_held_out_sentences(
    exported: Exported, tmp_path: Path
) -> None:
    """Of the run's own test sentences where they are, else of bundled ones, else of random ids."""
    tokenizer = exported.translator.tokenizer
    settings = translation_settings(exported.model, tokenizer)
    graphs = TwoGraphs(exported.folder / ENCODER_FILE, exported.folder / DECODER_FILE, settings)
    model = copy.deepcopy(exported.model)
    found = compare_translations(model, tokenizer, graphs, settings)
    texts, references = pair_texts(bundled_pairs()["validation"], "en", "zh")
    translations = [t.text for t in exported.translator.translate(texts, 1)]
    bleu = pytest.approx(score_translations(translations, references).bleu)
    assert found == (len(texts), len(texts), "bundled validation sentences", (bleu, bleu))

    model.name_or_path = str(tmp_path)
    lines = [f"{en}\t{zh}\t{zh}\t0" for en, zh in PAIRS]
    table = "\n".join(["source\treference\thypothesis\tsentence_bleu", *lines, "broken", ""])
    (tmp_path / "test_predictions.tsv").write_text(table, encoding="utf-8")
    with torch.no_grad():
        model.lm_head.weight.neg_()
    found = compare_translations(model, tokenizer, graphs, settings)
    assert found[:3] == (0, len(PAIRS), "test sentences of its run")
    assert found.bleu is not None
    assert found.bleu[0] < 1 < found.bleu[1], "the graphs know what the model has lost"
    assert str(found).startswith("16 of 16 test sentences of its run change, BLEU 0.")

    (tmp_path / "test_predictions.tsv").unlink()
    for lang in ("fr", None):
        found = compare_translations(model, tokenizer, graphs, {**settings, "target_lang": lang})
        assert str(found) == "32 of 32 rows of random ids change"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "word-char"])
def test_eight_bits_by_the_command(tmp_path: Path, kind: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", kind=kind)
    command = ["export", "--model", str(checkpoint), "--output_dir", str(tmp_path / "out")]
    assert cli.main([*command, "--dtype", "int8"]) == 0
    outside = load_program(EXAMPLE).OnnxTranslator(tmp_path / "out", 1)
    learnt = [source for source, _ in PAIRS]
    inside = Translator.from_pretrained(checkpoint, device="cpu").translate(learnt)
    same = [a == b.text for a, b in zip(outside.translate(learnt), inside, strict=True)]
    assert sum(same) >= len(same) - 1
    assert load_tokenizer(checkpoint).init_kwargs["tokenizer_kind"] == kind
