"""What a vocabulary makes of sentences, and the most that a memory can reach with it."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from bahdanau_hf.data.preprocessing import pair_texts
from bahdanau_hf.data.tokenization import EOS_ID, SPECIAL_TOKENS
from bahdanau_hf.metrics.translation import tutorial_bleu, tutorial_counts
from bahdanau_hf.training.run import Run


def encode(run: Run, sentences: Sequence[str]) -> list[list[int]]:
    """Token ids, cut as in training."""
    longest = run.data_args.max_source_length
    rows = run.tokenizer(list(sentences), return_attention_mask=False, verbose=False)["input_ids"]
    return [row if len(row) <= longest else [*row[: longest - 1], EOS_ID] for row in rows]


def characters(run: Run, ids: Sequence[int]) -> list[str]:
    """The tutorial's tokens: characters, and `<unk>` as one."""
    tokens: list[str] = []
    for token in run.tokenizer.convert_ids_to_tokens(ids):
        if token == "<unk>":
            tokens.append(token)
        elif token not in SPECIAL_TOKENS:
            tokens += token.strip()
    return tokens


def texts(run: Run, split: str) -> tuple[list[str], list[str]]:
    """Both sides of a split, in lower case as the tutorial has them."""
    langs = (run.data_args.source_lang, run.data_args.target_lang)
    sources, references = pair_texts(run.pairs.texts[split], *langs)
    return [text.lower() for text in sources], [text.lower() for text in references]


def held_out(run: Run, sources: set[str], references: set[str]) -> tuple[list[str], list[str]]:
    """The pairs of the held-out file of which neither side was learnt."""
    pairs = zip(*texts(run, "validation"), strict=True)
    rest = [pair for pair in pairs if pair[0] not in sources and pair[1] not in references]
    return [source for source, _ in rest], [reference for _, reference in rest]


def ceiling(run: Run, sources: Sequence[str], references: Sequence[str]) -> tuple[int, int]:
    """The counters of the best choice of one translation for each source as it is encoded."""
    positive = above = 0
    for group in alike(run, sources, references):
        scores = [
            [tutorial_bleu(candidate, reference) for reference in group]
            for candidate in candidates(run, group)
        ]
        positive += max(sum(score > 0 for score in row) for row in scores)
        above += max(sum(score > 0.8 for score in row) for row in scores)
    return positive, above


def likeliest(run: Run, sources: Sequence[str], references: Sequence[str]) -> tuple[int, int]:
    """The counters if each source got what greedy search finds among its translations.

    So far can learning to predict the next word lead: each translation gets its share of
    probability, and the search follows the commonest word at every step.
    """
    predictions, found = [], []
    for group in alike(run, sources, references):
        rows = run.tokenizer(group, verbose=False)["input_ids"]
        place = 0
        while place < len(rows[0]):  # all end in the same token, so they end together
            word = collections.Counter(row[place] for row in rows).most_common(1)[0][0]
            rows, place = [row for row in rows if row[place] == word], place + 1
        words = rows[0][: run.data_args.max_target_length]
        predictions += [characters(run, words)] * len(group)
        found += group
    return tutorial_counts(predictions, found)


def alike(run: Run, sources: Sequence[str], references: Sequence[str]) -> list[list[str]]:
    """References of sources that the vocabulary cannot tell apart, together."""
    groups: dict[tuple[int, ...], list[str]] = collections.defaultdict(list)
    for ids, reference in zip(encode(run, sources), references, strict=True):
        groups[tuple(ids)].append(reference)
    return [*groups.values()]


def candidates(run: Run, references: Sequence[str]) -> Iterator[list[str]]:
    """The references as the model could write them: with its words, and no longer than it may."""
    longest = run.data_args.max_target_length
    texts = list(dict.fromkeys(references))
    for ids in run.tokenizer(texts, verbose=False)["input_ids"]:
        yield characters(run, ids[:longest])
