"""The whole search as one graph: the tokens of `generate`, for every kind of model."""

from __future__ import annotations

import copy
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bahdanau_hf import BahdanauForConditionalGeneration, cli
from bahdanau_hf.export import onnx_decoder, onnx_export
from bahdanau_hf.export.onnx_export import search_graph
from bahdanau_hf.export.onnx_search import WholeSearch
from bahdanau_hf.inference.translator import Translator
from tests.helpers.batches import random_source
from tests.helpers.exported_checkpoint import EXAMPLE, Exported
from tests.helpers.places import load_program
from tests.helpers.tiny_checkpoint import PAIRS, SENTENCES, make_checkpoint
from tests.helpers.tiny_model import VARIANTS, make_config

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
    pytest.skip("exporting needs PyTorch 2.8", allow_module_level=True)

LIMIT = 12
KINDS = [
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
]


def make_model(**changes: Any) -> BahdanauForConditionalGeneration:
    """Random weights, whose outputs differ from row to row and end at any step."""
    torch.manual_seed(0)
    config = make_config(**{"initializer_range": 6.0, **changes})
    model = BahdanauForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.bias[2] += 1
    return model


def search(model: Any, dtype: str = "float32", num_beams: int = 1) -> WholeSearch:
    return WholeSearch(search_graph(model, dtype, num_beams).SerializeToString(), num_threads=1)


def assert_same(
    found: WholeSearch, model: Any, ids: Tensor, mask: Tensor, num_beams: int = 1
) -> Tensor:
    rules = {"num_beams": num_beams, "max_new_tokens": LIMIT}
    expected = model.generate(ids, attention_mask=mask, **rules)[:, 1:]
    np.testing.assert_array_equal(found(ids.numpy(), mask.numpy(), LIMIT), expected.numpy())
    return expected


@pytest.mark.parametrize(
    "changes",
    [{"conditional_gru": True}, {"readout": "deep", "decoder_layers": 2}],
    ids=str,
)
def test_tokens_are_those_of_generate(changes: dict[str, Any]) -> None:
    model = make_model(**changes)
    found = search(model)
    outputs = [
        assert_same(found, model, *random_source(model, B, S)) for B, S in ((1, 1), (1, 9), (30, 6))
    ]
    assert len(outputs[-1].unique(dim=0)) > 20, "the rows are no copies of each other"
    ended = (outputs[-1] == model.config.eos_token_id).any(dim=1)
    assert ended.any()
    assert not ended.all()


RULES = [
    pytest.param((2, 1.0, False, 2), marks=pytest.mark.slow),
    (3, -2.0, False, 2),
    pytest.param((4, 1.0, "never", 2), marks=pytest.mark.slow),
    (5, 2.0, True, 2),
    pytest.param((5, 0.7, False, [2, 7, 11]), marks=pytest.mark.slow),
    (5, -1.0, "never", [2, 7]),
    (3, 0.0, True, None),
]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_beams_follow_the_rules_of_generate(rules: tuple[int, float, Any, Any]) -> None:
    model = make_model()
    config = model.generation_config
    num_beams, config.length_penalty, config.early_stopping, config.eos_token_id = rules
    found = search(model, num_beams=num_beams)
    outputs = [
        assert_same(found, model, *random_source(model, B, S), num_beams)
        for B, S in ((1, 1), (1, 9), (2, 5), (30, 6))
    ]
    assert len(outputs[-1].unique(dim=0)) > 15, "the rows are no copies of each other"


@pytest.mark.parametrize("pad", [None, pytest.param(0, marks=pytest.mark.slow), 9])
def test_what_stands_behind_the_end_of_a_hypothesis(pad: int | None) -> None:
    model = make_model()
    model.generation_config.pad_token_id = pad
    expected = assert_same(search(model, num_beams=2), model, *random_source(model, 30, 6), 2)
    ended = expected[:, :-1] == model.config.eos_token_id
    assert ended.any()
    assert (expected[:, 1:][ended] == (pad or 2)).all()


def test_beams_stop_when_nothing_can_change(exported: Exported) -> None:
    """A step more would find a table of divisors too short: the limit is what is allowed."""
    found, tokenizer = search(exported.model, num_beams=3), exported.translator.tokenizer
    sources = [tokenizer(source)["input_ids"] for source, _ in PAIRS[:4]]
    width = max(map(len, sources))
    ids = np.array([[*row, *[0] * (width - len(row))] for row in sources])
    mask = (ids != 0).astype(np.int64)
    start = time.perf_counter()
    short = found(ids, mask, 100)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    np.testing.assert_array_equal(found(ids, mask, 100_000), short)
    assert time.perf_counter() - start < 50 * seconds, "not all of the 100,000 steps were taken"


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("largest_table", [0, 1 << 24], ids=["product", "table"])
@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_every_kind_of_model(
    changes: dict[str, Any], largest_table: int, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_decoder, "LARGEST_TABLE", largest_table)
    model = make_model(**changes)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = search(model, num_beams=num_beams)
    for B, S in ((1, 1), (1, 9), (4, 6), (5, 13)):
        assert_same(found, model, *random_source(model, B, S), num_beams)
    assert model.state_dict().keys() == before.keys(), "the model was left as it is"


def test_it_stops_when_all_rows_have_ended(exported: Exported) -> None:
    found, tokenizer = search(exported.model), exported.translator.tokenizer
    sources = [tokenizer(source)["input_ids"] for source, _ in PAIRS[:4]]
    lengths = []
    for ids in sources:
        row = found(np.array([ids]), np.ones((1, len(ids)), np.int64), 1000)[0].tolist()
        assert row.index(2) == len(row) - 1, "the end is the last step"
        lengths.append(len(row))
    assert len(set(lengths)) > 1
    width = max(map(len, sources))
    ids = np.array([[*row, *[0] * (width - len(row))] for row in sources])
    together = found(ids, (ids != 0).astype(np.int64), 1000)
    assert together.shape == (4, max(lengths))
    for row, length in zip(together.tolist(), lengths, strict=True):
        assert row[length:] == [0] * (len(row) - length), "padding follows the end"


@pytest.mark.parametrize("ends", [None, [2, 7, 11]])
def test_what_ends_a_row(ends: list[int] | None) -> None:
    model = make_model()
    model.generation_config.eos_token_id = ends
    found = search(model)
    ids, mask = random_source(model, 20, 5)
    expected = assert_same(found, model, ids, mask)
    if ends is None:
        assert expected.shape == (20, LIMIT)


@pytest.mark.parametrize("num_beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_eight_bits_know_what_was_learnt(exported: Exported, num_beams: int) -> None:
    whole = search_graph(exported.model, "float32", num_beams)
    small = search_graph(exported.model, "int8", num_beams)
    assert len(small.SerializeToString()) < 0.45 * len(whole.SerializeToString())  # a small model
    found, tokenizer = WholeSearch(small.SerializeToString()), exported.translator.tokenizer
    for source, target in PAIRS[:6]:
        ids = np.array([tokenizer(source)["input_ids"]])
        labels = tokenizer(text_target=target)["input_ids"]
        assert found(ids, np.ones_like(ids), 29).tolist() == [labels]


@pytest.mark.slow
def test_eight_bits_change_few_words_of_two_transitions() -> None:
    model = make_model(readout="deep", conditional_gru=True)
    ids, mask = random_source(model, 200, 6)
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=2)[:, 1:]
    assert len(expected.unique(dim=0)) > 20
    found = search(model, "int8")(ids.numpy(), mask.numpy(), 2)
    assert (found == expected.numpy()).all(axis=1).mean() > 0.9


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_step_multiplies_once_where_it_can(num_beams: int) -> None:
    """One layer with the linear readout: of products over a weight there is one in the loop."""
    model = make_model(decoder_layers=1, readout="linear")
    graph = search_graph(model, "float32", num_beams).graph
    (loop,) = [node for node in graph.node if node.op_type == "Loop"]
    (body,) = [attribute.g for attribute in loop.attribute]
    wide = {x.name for x in graph.initializer if len(x.dims) == 2 and min(x.dims) > 1}
    products = [n for n in body.node if n.op_type == "MatMul" and set(n.input) & wide]
    assert len(products) == 1


# --- the command and the example -----------------------------------------------------------------


@pytest.fixture(scope="module")
def one_graph(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_graph")
    (folder / "encoder_model.onnx").write_text("of another export")
    command = ["export", "--model", str(exported.checkpoint), "--format", "onnx-greedy"]
    assert cli.main([*command, "--output_dir", str(folder)]) == 0
    return folder


def test_one_file_beside_the_texts(one_graph: Path) -> None:
    names = {path.name for path in one_graph.iterdir()}
    assert names == {"search.onnx", "tokenizer.json", "translation.json"}
    settings = json.loads((one_graph / "translation.json").read_text(encoding="utf-8"))
    assert settings["num_beams"] == 1
    content = (one_graph / "search.onnx").read_bytes()
    assert str(Path(onnx_export.__file__).parent).encode() not in content


def test_the_example_takes_the_one_graph(exported: Exported, one_graph: Path) -> None:
    outside = load_program(EXAMPLE).OnnxTranslator(one_graph, 1)
    expected = [t.text for t in exported.translator.translate(SENTENCES, 1)]
    assert outside.translate(SENTENCES, batch_size=5) == expected
    assert outside.translate(SENTENCES, 1, batch_size=1) == expected
    with pytest.raises(ValueError, match=r"search\.onnx searches with num_beams 1, not 2"):
        outside.translate(SENTENCES, 2)


def test_the_example_searches_with_the_graphs_beams(exported: Exported, tmp_path: Path) -> None:
    command = ["export", "--model", str(exported.checkpoint), "--format", "onnx-search"]
    assert cli.main([*command, "--num_beams", "4", "--output_dir", str(tmp_path)]) == 0
    outside = load_program(EXAMPLE).OnnxTranslator(tmp_path, 1)
    expected = [t.text for t in exported.translator.translate(SENTENCES, 4)]
    assert outside.translate(SENTENCES, batch_size=5) == expected
    assert outside.translate(SENTENCES, 4, batch_size=1) == expected


@pytest.mark.parametrize("form", ["onnx", "onnx-greedy"])
def test_beams_are_asked_of_the_one_graph_alone(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--model", "absent", "--output_dir", str(tmp_path), "--num_beams", "2"]
    assert cli.main([*command, "--format", form]) == 2
    assert f"--num_beams is for --format onnx-search, not {form}" in capsys.readouterr().err


@pytest.mark.parametrize("num_beams", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_the_command_says_how_many_translations_change(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_beams: str
) -> None:
    command = ["export", "--model", str(exported.checkpoint), "--format", "onnx-search"]
    command += ["--num_beams", num_beams]
    assert cli.main([*command, "--output_dir", str(tmp_path)]) == 0
    found = capsys.readouterr().err
    pattern = r"0 of \d+ bundled validation sentences change, BLEU ([\d.]+) before and \1 after\n$"
    assert re.search(pattern, found), found


def test_a_graph_that_is_not_the_model_is_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy.deepcopy(exported.model)
    with torch.no_grad():
        other.lm_head.weight.neg_()
    graph = search_graph(other)
    monkeypatch.setattr(onnx_export, "search_graph", lambda *how: graph)
    tokenizer = exported.translator.tokenizer
    with pytest.raises(RuntimeError, match="the exported graph is not the model: it agrees on 0"):
        onnx_export.export_search(exported.model, tokenizer, tmp_path)


@pytest.mark.slow
def test_eight_bits_by_the_command(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    command = ["export", "--model", str(checkpoint), "--output_dir", str(tmp_path / "out")]
    assert cli.main([*command, "--format", "onnx-greedy", "--dtype", "int8"]) == 0
    outside = load_program(EXAMPLE).OnnxTranslator(tmp_path / "out", 1)
    learnt = [source for source, _ in PAIRS]
    inside = Translator.from_pretrained(checkpoint, device="cpu").translate(learnt, 1)
    same = [a == b.text for a, b in zip(outside.translate(learnt), inside, strict=True)]
    assert sum(same) >= len(same) - 1
