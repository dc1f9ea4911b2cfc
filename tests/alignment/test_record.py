import json

import numpy as np
import pytest

from bahdanau_hf.alignment.record import END, Alignment
from bahdanau_hf.alignment.words import align_words
from tests.helpers.small_alignment import ALIGNMENT, SOURCE, TARGET, WEIGHTS


class TestAlignment:
    def test_copies_and_protects_its_weights(self):
        weights = WEIGHTS.copy()
        alignment = Alignment(tuple(SOURCE), tuple(TARGET), weights)
        weights[0] = 7
        assert alignment.weights[0, 0] == np.float32(0.9)
        assert alignment.weights.dtype == np.float32
        assert (alignment.source_tokens, alignment.target_tokens) == (SOURCE, TARGET)
        with pytest.raises(ValueError, match="read-only"):
            alignment.weights[0, 0] = 1

    def test_takes_tensors_with_gradient_and_half_precision(self):
        torch = pytest.importorskip("torch")
        weights = torch.tensor(WEIGHTS).to(torch.bfloat16).requires_grad_()
        alignment = Alignment(SOURCE, TARGET, weights)
        np.testing.assert_allclose(alignment.weights, WEIGHTS, atol=4e-3)

    @pytest.mark.parametrize(
        ("source", "target", "weights", "message"),
        [
            (SOURCE, TARGET, WEIGHTS.T, r"= \(4, 3\), not \(3, 4\)"),
            (SOURCE, TARGET, WEIGHTS[0], r"not \(3,\)"),
            (SOURCE, [], np.zeros((0, 3)), "at least one"),
            ([], TARGET, np.zeros((4, 0)), "at least one"),
            (["a"], ["b", "c"], [[1.0], [0.5]], "row 1 sums to 0.5"),
            (["a", "b"], ["c"], [[1.5, -0.5]], "not negative"),
            (["a"], ["b"], [[float("nan")]], "finite"),
            (["a", "b"], ["c", "d"], [[1.0], [0.5, 0.5]], "table of numbers"),
            (["a"], ["b"], [["x"]], "table of numbers"),
        ],
    )
    def test_wrong_shapes_and_rows(self, source, target, weights, message):
        with pytest.raises(ValueError, match=message):
            Alignment(source, target, weights)

    def test_survives_json(self):
        again = Alignment.from_dict(json.loads(json.dumps(ALIGNMENT.as_dict())))
        assert (again.source_tokens, again.target_tokens) == (SOURCE, TARGET)
        np.testing.assert_allclose(again.weights, WEIGHTS, atol=5e-5)

    def test_long_uniform_rows_survive_rounding(self):
        tokens = [str(i) for i in range(300)]
        uniform = Alignment(tokens, ["x"], np.full((1, 300), 1 / 300))
        assert Alignment.from_dict(uniform.as_dict()).weights.shape == (1, 300)

    @pytest.mark.parametrize(
        "values",
        [
            {},
            [],
            {"source_tokens": SOURCE, "target_tokens": TARGET},
            {"source_tokens": "abc", "target_tokens": TARGET, "weights": WEIGHTS.tolist()},
            {"source_tokens": [1, 2, 3], "target_tokens": TARGET, "weights": WEIGHTS.tolist()},
            {"source_tokens": SOURCE, "target_tokens": TARGET, "weights": None},
        ],
    )
    def test_foreign_json(self, values):
        with pytest.raises(ValueError, match=r"needs|list of strings|table|shape"):
            Alignment.from_dict(values)


def test_by_words_keeps_what_each_word_got_and_gives_the_end_the_rest() -> None:
    weights = np.array([[0.5, 0.2, 0.1, 0.2], [0.0, 0.0, 0.9, 0.1], [0.1, 0.1, 0.1, 0.7]])
    spans = [(0, 2), (2, 4), (5, 7), None]  # "Pa", "ul", "is", the end
    words = align_words("Paul is", "保罗", spans, [(0, 1), (1, 2), None], weights)
    pieces = ["pa", "ul", "is", "<eos>"]
    tokens = Alignment(pieces, ["保", "罗", "<eos>"], weights, words, "Paul is", "保罗")
    found = tokens.by_words()
    assert found.source_tokens == ["Paul", "is", END]
    assert found.target_tokens == ["保", "罗"]
    np.testing.assert_allclose(found.weights, [[0.7, 0.1, 0.2], [0.0, 0.9, 0.1]], atol=1e-6)
    assert (found.source, found.target) == ("Paul is", "保罗")
    again = Alignment.from_dict(json.loads(json.dumps(found.as_dict())))
    assert (again.source, again.target) == ("Paul is", "保罗")
    bare = Alignment(pieces, ["保", "罗", "<eos>"], weights)
    assert bare.by_words() is bare
    assert "source" not in bare.as_dict()
