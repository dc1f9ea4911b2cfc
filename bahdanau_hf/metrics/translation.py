"""Scores of translations: corpus BLEU and chrF with their signatures, and the tutorial's BLEU.

A score is never a bare number: it carries the sacrebleu signature with which a stranger can repeat
it (Post 2018, "A Call for Clarity in Reporting BLEU Scores"). sacrebleu itself computes; we check
the input, choose the tokenizer fit for the target language and arrange the references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from ..errors import InputError
from ..files import is_number
from ..languages import has_spaces, is_chinese

FEW_SENTENCES = 100
# Kinds of targets that are no sentences, and sacrebleu's tokenizers for them.
_BY_TOKEN = {"word": "none", "char": "char"}


def few_sentences(number: Any) -> str:
    """What must stand beside a score of so few sentences; empty where there are enough."""
    few = is_number(number) and number < FEW_SENTENCES
    return f"only {number} sentence{'s' * (number != 1)}: this says little" if few else ""


@dataclass(frozen=True)
class TranslationScores:
    """Scores of a set of translations, with sacrebleu's words on how they were computed."""

    bleu: float  # corpus BLEU, 0 to 100 (Papineni et al. 2002)
    bleu_signature: str
    chrf: float  # corpus chrF2, 0 to 100 (Popović 2015), of characters in every language
    chrf_signature: str
    num_sentences: int
    hypothesis_tokens: int  # length of all predictions, in BLEU's tokens
    reference_tokens: int  # length of the references, of several the closest in length
    brevity_penalty: float  # BLEU's factor for too short predictions, in [0, 1]
    precisions: tuple[float, ...]  # BLEU's, of 1- to 4-grams, 0 to 100 each
    error_rate: float | None = None  # lines not wholly right, of 100; of kinds `char` and `word`
    token_error_rate: float | None = None  # edits for 100 tokens of the references, likewise

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, under the attributes' names; error rates if there."""
        values = {**vars(self), "precisions": list(self.precisions)}
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        told = f"BLEU {self.bleu:.2f} ({self.bleu_signature}), chrF {self.chrf:.2f} "
        told += f"({self.chrf_signature}), {self.num_sentences} sentences"
        if self.error_rate is not None:
            told += f", {self.error_rate:.2f} % of lines not wholly right"
            told += f", token error rate {self.token_error_rate:.2f}"
        return told


class TutorialCounts(NamedTuple):
    """The two counters that the tutorial prints: sentences with BLEU-k above 0 and above 0.8."""

    positive: int
    above_0_8: int


def bleu_tokenizer(target_lang: str, target_kind: str | None = None) -> str:
    """Name sacrebleu's tokenizer for a language: `zh` for Chinese, `13a` for spaced scripts.

    Script and region do not matter (`zh-Hans`, `zh_TW`). Japanese, Thai, Lao, Khmer and Burmese are
    compared by characters (`char`), and so are targets of that kind; of kind `word`, as they are
    cut (`none`).
    """
    if target_kind in _BY_TOKEN:
        return _BY_TOKEN[target_kind]
    if is_chinese(target_lang):
        return "zh"
    return "13a" if has_spaces(target_lang) else "char"


def score_translations(
    predictions: Iterable[str],
    references: Iterable[str | Sequence[str]],
    *,
    target_lang: str = "zh",
    target_kind: str | None = None,
    lowercase: bool = False,
) -> TranslationScores:
    """Score a set of translations with corpus BLEU and chrF, as sacrebleu computes them.

    The corpus is the unit: BLEU is not a mean over sentences, and a corpus without a single 4-gram
    in its predictions scores 0 (sacrebleu's `eff:no`).

    Args:
        predictions: one translation a sentence, detokenised; an iterator will do.
        references: for each sentence a reference, or a list of references; their number may vary.
        target_lang: language code of the translations; chooses BLEU's tokenizer.
        target_kind: kind of the tokenizer that made them; `word` and `char` choose BLEU's tokenizer
            and add error rates, each line compared with the reference that is nearest to it.
        lowercase: compare without regard to case (the signatures then say `case:lc`).

    Raises:
        InputError: no sentences, unequal numbers of predictions and references, or entries that
            are not text.
    """
    from sacrebleu.metrics import BLEU, CHRF

    hypotheses, reference_lists = check_translations(predictions, references)
    streams = reference_streams(reference_lists)
    tokenize, is_cut = bleu_tokenizer(target_lang, target_kind), target_kind in _BY_TOKEN
    # `force`: no warning that cut text looks cut.
    bleu_metric = BLEU(tokenize=tokenize, lowercase=lowercase, force=is_cut)
    chrf_metric = CHRF(lowercase=lowercase)
    bleu = bleu_metric.corpus_score(hypotheses, streams)
    chrf = chrf_metric.corpus_score(hypotheses, streams)
    rates: tuple[float, ...] = ()
    if is_cut:
        cut = str.split if target_kind == "word" else list
        folded = str.lower if lowercase else str
        rates = error_rates(
            [cut(folded(text)) for text in hypotheses],
            [[cut(folded(text)) for text in texts] for texts in reference_lists],
        )
    return TranslationScores(
        bleu=float(bleu.score),
        bleu_signature=str(bleu_metric.get_signature()),
        chrf=float(chrf.score),
        chrf_signature=str(chrf_metric.get_signature()),
        num_sentences=len(hypotheses),
        hypothesis_tokens=int(bleu.sys_len),
        reference_tokens=int(bleu.ref_len),
        brevity_penalty=float(bleu.bp),
        precisions=tuple(float(precision) for precision in bleu.precisions),
        **dict(zip(("error_rate", "token_error_rate"), rates, strict=False)),
    )


def error_rates(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, float]:
    """Share of predictions that equal no reference, and edits for a token of the references.

    Both times 100: the word and the phone error rate of grapheme-to-phoneme conversion (Gorman et
    al. 2020), where a line is a word and a token a phone. Of several references the one that needs
    the fewest edits counts.
    """
    wrong = edits = length = 0
    for prediction, alternatives in zip(predictions, references, strict=True):
        distance, tokens = min((edit_distance(prediction, r), len(r)) for r in alternatives)
        wrong, edits, length = wrong + (distance > 0), edits + distance, length + tokens
    return 100 * wrong / len(predictions), 100 * edits / max(1, length)


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """The fewest insertions, deletions and exchanges that turn one into the other (Levenshtein)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def sentence_scores(
    predictions: Iterable[str],
    references: Iterable[str | Sequence[str]],
    target_lang: str = "zh",
    *,
    target_kind: str | None = None,
    lowercase: bool = False,
) -> list[float]:
    """Score each sentence by itself: sentence BLEU, 0 to 100, with effective order.

    For finding good and bad translations, not for reporting: their mean is not corpus BLEU. With
    the effective order (sacrebleu's `eff:yes`) a sentence of fewer than four tokens that equals
    its reference scores 100. Arguments and errors are those of `score_translations`.
    """
    from sacrebleu.metrics import BLEU

    hypotheses, reference_lists = check_translations(predictions, references)
    tokenize = bleu_tokenizer(target_lang, target_kind)
    metric = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    return [
        float(metric.sentence_score(hypothesis, alternatives).score)
        for hypothesis, alternatives in zip(hypotheses, reference_lists, strict=True)
    ]


def tutorial_bleu(prediction: str | Sequence[str], reference: str, k: int = 2) -> float:
    """Compute the tutorial's BLEU-k of one sentence, in [0, 1].

    exp(min(0, 1 - len_label / len_pred)) * prod over n of p_n ** (0.5 ** n), n = 1 to k

    The prediction's tokens are compared with the reference's *characters*, punctuation included,
    so the number fits only models that write one Chinese character a token. There is no smoothing,
    and it is not comparable with corpus BLEU. Where the tutorial divides by zero, at a prediction
    of exactly k - 1 tokens or fewer, the score is 0.

    A prediction is its tokens, or text with one space between tokens as the tutorial prints it; for
    text without spaces pass `list(text)`. The longest n-gram, k, is at least 1.

    Raises:
        ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    text = prediction if isinstance(prediction, str) else " ".join(prediction)
    if not text:
        return 0.0
    predicted, label = text.split(" "), list(reference)
    score = math.exp(min(0.0, 1 - len(label) / len(predicted)))
    for n in range(1, k + 1):
        num_ngrams = len(predicted) - n + 1
        if num_ngrams < 1:
            return 0.0
        # Clipped matches: an n-gram counts at most as often as the reference has it.
        num_matches = (_ngrams(predicted, n) & _ngrams(label, n)).total()
        score *= (num_matches / num_ngrams) ** (0.5**n)
    return score


def tutorial_counts(
    predictions: Iterable[str | Sequence[str]], references: Iterable[str], k: int = 2
) -> TutorialCounts:
    """Count the sentences whose `tutorial_bleu` is above 0 and above 0.8, as the tutorial prints.

    Raises:
        InputError: no sentences, or unequal numbers of predictions and references.
    """
    predicted, labels = list(predictions), list(references)
    _check_lengths(len(predicted), len(labels))
    scores = [tutorial_bleu(p, label, k) for p, label in zip(predicted, labels, strict=True)]
    return TutorialCounts(sum(score > 0 for score in scores), sum(score > 0.8 for score in scores))


class AlignmentScores(NamedTuple):
    """How well links between words agree with those that people have drawn."""

    error_rate: float  # AER in [0, 1], 0 is best
    precision: float  # share of the links that are possible, in [0, 1]; 1 where there are none
    recall: float  # share of the sure links that were found, in [0, 1]; 1 where there are none
    num_links: int  # that were scored


def alignment_scores(
    links: Iterable[Iterable[tuple[int, int]]],
    sure: Iterable[Iterable[tuple[int, int]]],
    possible: Iterable[Iterable[tuple[int, int]]],
) -> AlignmentScores:
    """Compute the alignment error rate over all sentences (Och and Ney 2003, section 4.2).

    AER = 1 - (|A ∩ S| + |A ∩ P|) / (|A| + |S|)

    A, S and P are for each sentence the `(source word, target word)` to be scored, those that must
    be there and those that may; the sure ones always may.

    Raises:
        InputError: no sentences, unequal numbers of them, or neither a link nor a sure link.
    """
    found, must, may = ([set(own) for own in side] for side in (links, sure, possible))
    if not len(found) == len(must) == len(may):
        raise InputError(
            f"{len(found)} sentences with links, {len(must)} with sure and {len(may)} with "
            "possible ones: give one entry a sentence"
        )
    num_links, num_sure = sum(map(len, found)), sum(map(len, must))
    if num_links + num_sure == 0:
        raise InputError("there are no links to score")
    in_sure = sum(len(a & s) for a, s in zip(found, must, strict=True))
    in_possible = sum(len(a & (s | p)) for a, s, p in zip(found, must, may, strict=True))
    return AlignmentScores(
        error_rate=1 - (in_sure + in_possible) / (num_links + num_sure),
        precision=in_possible / num_links if num_links else 1.0,
        recall=in_sure / num_sure if num_sure else 1.0,
        num_links=num_links,
    )


def _ngrams(tokens: Sequence[str], n: int) -> Counter[str]:
    # Joined, not tuples: the tutorial's key, whose " ".join can make unlike n-grams alike.
    return Counter(" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def check_translations(
    predictions: Iterable[str], references: Iterable[str | Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Read both sides to the end: the predictions, and for each a list of at least one reference.

    Errors are those of `score_translations`.
    """
    hypotheses = _sentences(predictions, "predictions")
    entries = _sentences(references, "references")
    reference_lists = [[entry] if isinstance(entry, str) else entry for entry in entries]
    _check_lengths(len(hypotheses), len(reference_lists))
    for number, hypothesis in enumerate(hypotheses):
        if not isinstance(hypothesis, str):
            raise InputError(f"prediction {number} is not text: {hypothesis!r:.60}")
    for number, alternatives in enumerate(reference_lists):
        is_list = isinstance(alternatives, Iterable) and not isinstance(alternatives, bytes)
        texts = list(alternatives) if is_list else []  # an iterator will do
        if not is_list or not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"reference {number} is neither text nor a list of texts: {alternatives!r:.60}"
            )
        if not texts:
            raise InputError(f"sentence {number} has no reference")
        reference_lists[number] = texts
    return hypotheses, reference_lists


def reference_streams(reference_lists: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: every sentence's first, and so on; `None` for no more."""
    return [list(stream) for stream in zip_longest(*reference_lists)]


def _sentences(texts: Iterable[Any], name: str) -> list[Any]:
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError(f"{name} must be a list of sentences, not {texts!r:.60}")
    return list(texts)


def _check_lengths(num_predictions: int, num_references: int) -> None:
    if num_predictions != num_references:
        raise InputError(
            f"{num_predictions} predictions but {num_references} references: give one entry a "
            "sentence (several references of a sentence stand together in a list)"
        )
    if num_predictions == 0:
        raise InputError("there is nothing to score: no predictions and no references")
