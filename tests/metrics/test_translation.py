import collections
import math

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from bahdanau_hf.errors import InputError
from bahdanau_hf.metrics.translation import (
    bleu_tokenizer,
    edit_distance,
    score_translations,
    sentence_scores,
    tutorial_bleu,
    tutorial_counts,
)

PREDICTIONS = ["我们走吧。", "他 昨天没有去学校。", "Tom 喜欢看 NBA 比赛", "你好！"]
REFERENCES = ["我们走吧！", "他昨天没去上学。", "汤姆喜欢看NBA比赛。", "你好。"]
SECOND_REFERENCES = ["咱们走吧。", "昨天他没有去学校。", "Tom喜欢看NBA比赛。", "您好！"]
VERSION = sacrebleu.__version__


class TestCorpusScores:
    @pytest.mark.parametrize(
        ("prediction", "reference", "bleu"),
        [
            # 4 of 5 characters, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples; equal length.
            ("我们走吧。", "我们走吧！", 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
            # All n-grams match, 4 tokens against 7: brevity penalty alone.
            ("我们走吧", "我们走吧，朋友", 100 * math.exp(1 - 7 / 4)),
            # A repeated character counts only as often as the reference has it.
            ("好好好好", "好好好的", 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25),
            ("abc", "联系我们。", 0.0),
            ("", "联系我们。", 0.0),
        ],
    )
    def test_bleu_of_one_sentence_by_hand(self, prediction, reference, bleu):
        scores = score_translations([prediction], [reference])
        assert scores.bleu == pytest.approx(bleu, abs=1e-9)

    @pytest.mark.parametrize("target_lang", ["zh", "en"])
    @pytest.mark.parametrize("lowercase", [False, True])
    def test_equals_sacrebleu(self, target_lang, lowercase):
        scores = score_translations(
            PREDICTIONS, REFERENCES, target_lang=target_lang, lowercase=lowercase
        )
        tokenize = "zh" if target_lang == "zh" else "13a"
        bleu = sacrebleu.corpus_bleu(
            PREDICTIONS, [REFERENCES], tokenize=tokenize, lowercase=lowercase
        )
        chrf = sacrebleu.CHRF(lowercase=lowercase).corpus_score(PREDICTIONS, [REFERENCES])
        assert scores.bleu == bleu.score
        assert scores.chrf == chrf.score
        assert scores.precisions == tuple(bleu.precisions)
        assert scores.brevity_penalty == bleu.bp
        assert (scores.hypothesis_tokens, scores.reference_tokens) == (bleu.sys_len, bleu.ref_len)
        assert scores.num_sentences == 4

    def test_counts_are_pooled_over_sentences(self):
        # One sentence of 5 tokens all right, one of 4 all wrong; the mean would be 50.
        scores = score_translations(["我们走吧。", "坏坏坏坏"], ["我们走吧。", "好好好好"])
        assert scores.bleu == pytest.approx(100 * (5 / 9 * 4 / 7 * 3 / 5 * 2 / 3) ** 0.25)

    def test_several_references_equal_sacrebleu(self):
        pairs = list(zip(REFERENCES, SECOND_REFERENCES, strict=True))
        scores = score_translations(PREDICTIONS, pairs)
        streams = [REFERENCES, SECOND_REFERENCES]
        assert scores.bleu == sacrebleu.corpus_bleu(PREDICTIONS, streams, tokenize="zh").score
        assert scores.chrf == sacrebleu.corpus_chrf(PREDICTIONS, streams).score
        assert scores.bleu > score_translations(PREDICTIONS, REFERENCES).bleu

    def test_numbers_of_references_may_vary(self):
        mixed = [
            "我们走吧。",
            ["别的句子。", "他昨天没有去学校。"],
            ["一二三四五", "六", PREDICTIONS[2]],
        ]
        scores = score_translations(PREDICTIONS[:3], mixed)
        assert scores.bleu == pytest.approx(100)
        assert scores.chrf == pytest.approx(100)
        assert scores.bleu_signature.startswith("nrefs:var|")

    @pytest.mark.parametrize(
        ("options", "references", "bleu_signature", "chrf_signature"),
        [
            (
                {},
                REFERENCES,
                "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp",
                "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no",
            ),
            (
                {"target_lang": "en", "lowercase": True},
                list(zip(REFERENCES, SECOND_REFERENCES, strict=True)),
                "nrefs:2|case:lc|eff:no|tok:13a|smooth:exp",
                "nrefs:2|case:lc|eff:yes|nc:6|nw:0|space:no",
            ),
        ],
    )
    def test_signatures(self, options, references, bleu_signature, chrf_signature):
        scores = score_translations(PREDICTIONS, references, **options)
        assert scores.bleu_signature == f"{bleu_signature}|version:{VERSION}"
        assert scores.chrf_signature == f"{chrf_signature}|version:{VERSION}"
        assert scores.bleu_signature in str(scores)
        assert scores.chrf_signature in str(scores)

    @pytest.mark.parametrize(
        ("code", "tokenizer"),
        [
            ("zh", "zh"), ("zh-Hans", "zh"), ("zh_TW", "zh"), ("ZH", "zh"), ("cmn", "zh"),
            ("en", "13a"), ("en-GB", "13a"), ("de", "13a"), ("zha", "13a"), ("ja", "char"),
        ],
    )  # fmt: skip
    def test_tokenizer_fits_the_language(self, code, tokenizer):
        assert bleu_tokenizer(code) == tokenizer
        scores = score_translations(["a b c d"], ["a b c d"], target_lang=code)
        assert f"|tok:{tokenizer}|" in scores.bleu_signature

    def test_chinese_is_compared_by_characters(self):
        spaced = score_translations(["我 们 走 吧 。"], ["我们走吧。"])
        assert spaced.bleu == pytest.approx(100)
        assert score_translations(["我 们 走 吧 。"], ["我们走吧。"], target_lang="en").bleu < 50

    def test_iterators_are_read(self):
        scores = score_translations(iter(PREDICTIONS), (iter([text]) for text in REFERENCES))
        assert scores == score_translations(PREDICTIONS, REFERENCES)

    def test_as_dict_is_json_with_all_fields(self):
        scores = score_translations(PREDICTIONS, REFERENCES)
        values = scores.as_dict()
        fields = {name: value for name, value in vars(scores).items() if value is not None}
        assert {k: tuple(v) if k == "precisions" else v for k, v in values.items()} == fields
        for name in ("bleu", "chrf"):
            assert type(values[name]) is float
            assert isinstance(values[f"{name}_signature"], str)
        assert isinstance(values["precisions"], list)

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.text(alphabet="我你他们走吧。abc ", min_size=1, max_size=12), max_size=6),
        st.randoms(use_true_random=False),
    )
    def test_a_text_against_itself_scores_100_in_any_order(self, texts, random):
        texts.append("我们一起走吧。")
        scores = score_translations(texts, texts)
        assert scores.bleu == pytest.approx(100)
        assert scores.chrf == pytest.approx(100)
        assert scores.brevity_penalty == 1
        pairs = list(zip(texts, reversed(texts), strict=True))
        before = score_translations(*zip(*pairs, strict=True))
        random.shuffle(pairs)
        assert score_translations(*zip(*pairs, strict=True)).bleu == pytest.approx(before.bleu)


class TestSentenceScores:
    def test_equal_sacrebleu_sentence_by_sentence(self):
        expected = [
            sacrebleu.BLEU(tokenize="zh", effective_order=True).sentence_score(p, [r]).score
            for p, r in zip(PREDICTIONS, REFERENCES, strict=True)
        ]
        assert sentence_scores(iter(PREDICTIONS), iter(REFERENCES)) == expected
        assert len(set(expected)) == 4

    def test_short_but_right_is_100(self):
        assert sentence_scores(["好。", "Go"], ["好。", "go"]) == [pytest.approx(100), 0.0]
        assert sentence_scores(["Go"], ["go"], "en", lowercase=True) == [pytest.approx(100)]

    def test_best_of_several_references(self):
        assert sentence_scores(["我们走吧。"], [["别的", "我们走吧。"]]) == [pytest.approx(100)]


@pytest.mark.parametrize("score", [score_translations, sentence_scores])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "nothing to score"),
        (iter([]), iter([]), "nothing to score"),
        (["a"], [], "1 predictions but 0 references"),
        (["a", "b"], [["a", "b"]], "2 predictions but 1 references"),
        ("我们", ["我", "们"], "not '我们'"),
        (["我", "们"], "我们", "references must be a list of sentences"),
        (["a", None], ["a", "b"], "prediction 1 is not text: None"),
        (["a"], [None], "reference 0 is neither text nor a list"),
        (["a"], [b"a"], "reference 0 is neither text nor a list"),
        (["a"], [["a", 3]], "reference 0 is neither text nor a list"),
        (["a", "b"], ["a", []], "sentence 1 has no reference"),
        (["a"], 3, "references must be a list of sentences, not 3"),
    ],
)
def test_wrong_input_is_one_clear_line(score, predictions, references, message):
    if hasattr(predictions, "__next__"):
        predictions, references = iter([]), iter([])
    with pytest.raises(InputError, match=message) as error:
        score(predictions, references)
    assert "\n" not in str(error.value)


def _tutorial_formula(pred_tokens, label_tokens, k):
    """The tutorial's BLEU written again, with sums over positions instead of counters."""
    len_pred, len_label = len(pred_tokens), len(label_tokens)
    score = math.exp(min(0, 1 - len_label / len_pred))
    for n in range(1, k + 1):
        left = collections.defaultdict(int)
        for i in range(len_label - n + 1):
            left[" ".join(label_tokens[i : i + n])] += 1
        matches = 0
        for i in range(len_pred - n + 1):
            key = " ".join(pred_tokens[i : i + n])
            if left[key] > 0:
                matches += 1
                left[key] -= 1
        score *= math.pow(matches / (len_pred - n + 1), math.pow(0.5, n))
    return score


class TestTutorialBleu:
    @given(
        st.lists(
            st.sampled_from(["联", "系", "我", "们", "。", "Tom", "<unk>"]), min_size=1, max_size=9
        ),
        st.text(alphabet="联系我们。Tom", max_size=9),
        st.integers(1, 4),
    )
    def test_equals_the_formula(self, tokens, label, k):
        if len(tokens) < k:
            # The formula divides by zero, or by a negative count, there.
            assert tutorial_bleu(tokens, label, k) == 0.0
            return
        expected = _tutorial_formula(" ".join(tokens).split(" "), list(label), k)
        assert tutorial_bleu(tokens, label, k) == pytest.approx(expected, rel=1e-12, abs=0)
        assert tutorial_bleu(" ".join(tokens), label, k) == tutorial_bleu(tokens, label, k)

    @pytest.mark.parametrize(
        ("prediction", "label", "k", "expected"),
        [
            ("联 系 我 们 。", "联系我们。", 2, 1.0),
            # 4 of 5 tokens and 3 of 4 pairs, the last token wrong.
            ("联 系 我 们 ！", "联系我们。", 2, (4 / 5) ** 0.5 * (3 / 4) ** 0.25),
            # Too short by two: the penalty alone.
            ("联 系 我", "联系我们。", 2, math.exp(1 - 5 / 3)),
            # Too long is not penalised but in the precisions.
            ("好 。 。", "好。", 2, (2 / 3) ** 0.5 * (1 / 2) ** 0.25),
            ("好 。", "好。", 1, 1.0),
            # Latin words are single tokens, but the label is cut into characters.
            ("Tom", "Tom", 1, 0.0),
            ("联系我们。", "联系我们。", 1, 0.0),
            ("联 系", "我们。", 2, 0.0),
            ("", "我们。", 2, 0.0),
            ("我", "我", 2, 0.0),
            ("我 们", "", 2, 0.0),
        ],
    )
    def test_known_answers(self, prediction, label, k, expected):
        assert tutorial_bleu(prediction, label, k) == pytest.approx(expected)

    def test_unspaced_text_as_characters(self):
        assert tutorial_bleu(list("联系我们。"), "联系我们。") == 1.0
        assert tutorial_bleu([], "联系我们。") == 0.0

    @pytest.mark.parametrize("k", [0, -1])
    def test_k_below_one(self, k):
        with pytest.raises(ValueError, match="k must be at least 1"):
            tutorial_bleu("a", "a", k)

    def test_counts_are_strict(self):
        # 0.8 exactly is not above 0.8: 16 of 25 characters and k = 1 give 0.64 ** 0.5.
        label = "一" * 16 + "二" * 9
        exact = ["一"] * 16 + ["三"] * 9
        assert tutorial_bleu(exact, label, 1) == 0.8
        predictions = ["好 。", exact, "坏 ！", "联 系 我 们 ！"]
        references = ["好。", label, "好。", "联系我们。"]
        assert tutorial_counts(iter(predictions), iter(references), k=1) == (3, 2)
        counts = tutorial_counts(predictions, references)
        assert (counts.positive, counts.above_0_8) == (3, 2)

    @pytest.mark.parametrize(
        ("predictions", "references", "message"),
        [([], [], "nothing to score"), (["a"], ["a", "b"], "1 predictions but 2 references")],
    )
    def test_counts_of_wrong_input(self, predictions, references, message):
        with pytest.raises(InputError, match=message):
            tutorial_counts(predictions, references)


def test_unknown_name_of_the_module():
    import bahdanau_hf.metrics.translation

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bahdanau_hf.metrics.translation.nothing


# --- error rates ---------------------------------------------------------------------------------


def every_edit(tokens: tuple[str, ...], alphabet: str) -> set[tuple[str, ...]]:
    """What one insertion, deletion or exchange makes of tokens."""
    made = {tokens[:i] + tokens[i + 1 :] for i in range(len(tokens))}
    for letter in alphabet:
        made |= {(*tokens[:i], letter, *tokens[i:]) for i in range(len(tokens) + 1)}
        made |= {(*tokens[:i], letter, *tokens[i + 1 :]) for i in range(len(tokens))}
    return made


def test_edit_distance_is_the_fewest_edits() -> None:
    start = ("a", "b", "a")
    distances, reached = {start: 0}, {start}
    for distance in (1, 2, 3):
        reached = {made for tokens in reached for made in every_edit(tokens, "ab")}
        for tokens in reached:
            distances.setdefault(tokens, distance)
    assert len(distances) > 100
    for tokens, distance in distances.items():
        assert edit_distance(start, tokens) == edit_distance(tokens, start) == distance


@pytest.mark.parametrize(
    ("kind", "predictions", "references", "expected"),
    [
        ("word", ["a b", "c"], ["a b", "c"], (0, 0)),
        ("word", ["a b", "c"], ["a d", "c"], (50, 100 / 3)),
        ("word", ["tʃ a", ""], ["tʃ  a", "b c"], (50, 50)),  # white space is no token
        ("word", ["a b"], [["a c d", "x y", "a"]], (100, 100)),  # the nearest reference
        ("char", ["tʃa", "b"], ["tʃa", "bb"], (50, 20)),
        ("char", ["A", "b"], ["a", "b"], (50, 50)),
    ],
)
def test_error_rates_where_the_kind_says_so(kind, predictions, references, expected) -> None:
    scores = score_translations(predictions, references, target_lang="phones", target_kind=kind)
    rates = (scores.error_rate, scores.token_error_rate)
    assert rates == pytest.approx(expected)
    assert scores.as_dict()["error_rate"] == rates[0]
    assert f"{rates[0]:.2f} % of lines not wholly right" in str(scores)
    assert f"|tok:{'none' if kind == 'word' else 'char'}|" in scores.bleu_signature


@pytest.mark.parametrize("kind", [None, "bpe", "word-char"])
def test_sentences_have_no_error_rates(kind) -> None:
    scores = score_translations(["Go."], ["Stop."], target_lang="en", target_kind=kind)
    assert "error_rate" not in scores.as_dict()
    assert "|tok:13a|" in scores.bleu_signature


def test_error_rates_without_regard_to_case() -> None:
    scores = score_translations(["A b"], ["a B"], target_kind="word", lowercase=True)
    assert scores.error_rate == 0
