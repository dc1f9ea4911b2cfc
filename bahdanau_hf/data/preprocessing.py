"""Cleans pairs, cuts a validation split, makes token ids; counts by reason what is left out."""

from __future__ import annotations

import html
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset, Features, IterableDataset, Sequence, Value
from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..languages import base_language
from ..modeling.text_bahdanau import INVISIBLE
from .readers import LEFT_OUT
from .sources import (
    AnyDataset,
    hash_share,
    hash_shares,
    held_pairs,
    pair_texts,
    sentence_key,
    translation_features,
)
from .tokenization import EOS_ID, UNK_ID, clean_text, for_targets, target_vocab_size

ENCODED_FEATURES = {
    "input_ids": Sequence(Value("int32")),
    "attention_mask": Sequence(Value("int8")),
    "labels": Sequence(Value("int32")),
}
REASONS = ("empty", "too long", "unequal lengths", "bad rows")
_KEPT, _EMPTY, _TOO_LONG, _UNEQUAL, _BAD = range(5)
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
# Tokens of ours are shorter: what has more characters than this is dropped before costly steps.
_MOST_CHARACTERS_PER_TOKEN = 64
_STREAM_VALIDATION_PAIRS = 1000
_STREAMED_AT_ONCE = 1000
_CONVERTERS = {"simplified": "t2s", "traditional": "s2t"}

Batch = dict[str, list[Any]]


@dataclass
class DroppedPairs:
    """How many pairs were left out and why; `+` joins what cleaning and encoding counted.

    Of a stream the numbers grow as it is read.
    """

    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    """What else was met: `html_entities` and `invisible_marks`, in pairs; `unknown_labels`."""

    @property
    def kept(self) -> int:
        """Pairs that were not left out."""
        return self.total - sum(self.counts.values())

    @property
    def unknown_labels(self) -> int:
        """Tokens of the targets kept that the target vocabulary lacks; they are `<unk>` now."""
        return self.noted["unknown_labels"]

    def as_dict(self) -> dict[str, int]:
        """The numbers for a settings file: `read`, one by reason, `kept`, and what was noted.

        Of bad rows, entities and marks only where there are any.
        """
        reasons = {reason.replace(" ", "_"): self.counts[reason] for reason in REASONS}
        if not reasons["bad_rows"]:
            del reasons["bad_rows"]
        rest = {"kept": self.kept, "unknown_labels": self.unknown_labels}
        return {"read": self.total, **reasons, **rest, **{k: n for k, n in self.noted.items() if n}}

    def __add__(self, later: DroppedPairs) -> DroppedPairs:
        """What an earlier and a later step left out of the same pairs."""
        return DroppedPairs(self.total, self.counts + later.counts, self.noted + later.noted)

    def count(self, reasons: Iterable[int], notes: Mapping[str, Iterable[int]] = {}) -> None:
        """Add pairs by the code of their reason, 0 kept, else its place in `REASONS` from 1."""
        numbers = Counter(reasons)
        self.total += sum(numbers.values())
        self.counts.update({REASONS[code - 1]: n for code, n in numbers.items() if code != _KEPT})
        self.noted.update({name: sum(times) for name, times in notes.items()})


# --- cleaning ------------------------------------------------------------------------------------


def clean_pairs(
    dataset: AnyDataset,
    *,
    source_lang: str = "en",
    target_lang: str = "zh",
    chinese_script: str = "keep",
    max_source_length: int = 128,
    max_target_length: int = 128,
    max_length_ratio: float = 9.0,
    truncate_long_pairs: bool = False,
    unescape_html: bool = False,
    preprocessing_num_workers: int | None = None,
    training: bool = True,
) -> tuple[AnyDataset, DroppedPairs]:
    """Clean the text of both sides, and drop and count what cannot be learnt from.

    Dropped are empty pairs and, in training alone, those more unequal than `max_length_ratio` in
    characters and those whose characters are over 64 times the tokens that their side may have;
    the latter stay where they will be truncated. `chinese_script` is `keep`, `simplified` or
    `traditional`. Without `preprocessing_num_workers` this process does the work.

    Raises:
        InputError: `chinese_script` without Chinese, or without the extra `[zh]`.
    """
    languages, converted = (source_lang, target_lang), []
    if chinese_script != "keep":
        converted = [lang for lang in languages if base_language(lang) == "zh"]
        if not converted:
            raise InputError(f"--chinese_script {chinese_script}: neither language is Chinese")
        script_converter(chinese_script)
    max_lengths = (max_source_length, max_target_length)
    most_characters = [_MOST_CHARACTERS_PER_TOKEN * tokens for tokens in max_lengths]
    max_ratio = max_length_ratio if training else math.inf
    drops_long = training and not truncate_long_pairs

    def clean(batch: Batch) -> Batch:
        rows, reasons, entities, marks = [], [], [], []
        for row in batch["translation"]:
            given = {lang: row[lang] or "" for lang in languages}
            plain = {lang: _ENTITY.sub(_unescaped, text) for lang, text in given.items()}
            entities.append(plain != given)
            marks.append(any(not t.isascii() and INVISIBLE.search(t) for t in given.values()))
            if unescape_html:
                given = plain
            texts = {lang: clean_text(text) for lang, text in given.items()}
            for lang in converted:
                texts[lang] = script_converter(chinese_script)(texts[lang])
            lengths = [len(texts[lang]) for lang in languages]
            reason = _KEPT
            if (row[source_lang], row[target_lang]) == LEFT_OUT:
                reason = _BAD
            elif not all(lengths):
                reason = _EMPTY
            elif drops_long and any(map(operator.gt, lengths, most_characters)):
                reason = _TOO_LONG
            elif max(lengths) > max_ratio * min(lengths):
                reason = _UNEQUAL
            rows.append(texts)
            reasons.append(reason)
        counts = {"html_entities": entities, "invisible_marks": marks}
        return {"translation": rows, "reason": reasons, **counts}

    features, notes = {**translation_features(*languages)}, ("html_entities", "invisible_marks")
    return _map_and_drop(dataset, clean, features, notes, "Cleaning", preprocessing_num_workers)


def _unescaped(entity: re.Match[str]) -> str:
    return html.unescape(entity[0])


@lru_cache(maxsize=2)
def script_converter(script: str) -> Callable[[str], str]:
    """What turns Chinese text into `"simplified"` or `"traditional"` characters.

    Raises:
        InputError: the extra [zh] is not installed.
    """
    try:
        from opencc import OpenCC
    except ImportError:
        raise InputError(
            f"--chinese_script {script} needs OpenCC: pip install 'bahdanau-hf[zh]'"
        ) from None
    convert: Callable[[str], str] = OpenCC(_CONVERTERS[script]).convert
    return convert


def _map_and_drop(
    dataset: AnyDataset,
    function: Callable[..., Batch],
    features: dict[str, Any],
    notes: tuple[str, ...],
    description: str,
    num_workers: int | None,
) -> tuple[AnyDataset, DroppedPairs]:
    """Apply a batched function that adds `reason` and `notes`; count these, keep what is kept."""
    dropped = DroppedPairs()
    columns = ["reason", *notes]
    if isinstance(dataset, IterableDataset):
        # Not by its `map` and `filter`: each of them joins the keys of a batch into one key for
        # every row of it, and the keys of keys cost more than all the rest.
        def kept_rows() -> Iterator[dict[str, Any]]:
            for batch in dataset.iter(batch_size=_STREAMED_AT_ONCE):
                result = function(batch)
                reasons = result.pop("reason")
                dropped.count(reasons, {name: result.pop(name) for name in notes})
                for reason, *values in zip(reasons, *result.values(), strict=True):
                    if reason == _KEPT:
                        yield dict(zip(result, values, strict=True))

        # Ids are what they are; only text needs its schema, to know the languages by.
        schema = Features(features) if "translation" in features else None
        return IterableDataset.from_generator(kept_rows, features=schema), dropped
    options = {
        "batched": True,
        "remove_columns": ["translation"] if "translation" not in features else None,
        "features": Features({**features, **dict.fromkeys(columns, Value("int32"))}),
    }
    mapped = dataset.map(function, desc=description, num_proc=num_workers, **options)
    table = mapped.select_columns(columns).with_format("numpy")[:]
    dropped.count(table["reason"].tolist(), {name: table[name].tolist() for name in notes})
    mapped = mapped.remove_columns(columns)
    if dropped.kept < dropped.total:
        mapped = mapped.select(np.flatnonzero(table["reason"] == _KEPT))
    return mapped, dropped


def split_validation(dataset: AnyDataset, percentage: float) -> tuple[AnyDataset, AnyDataset]:
    """Cut a validation split from cleaned training pairs by the hash of their sentences.

    At most this percentage, in (0, 100), goes to validation, but at least one pair. No sentence of
    either language is in both parts: pairs that share one form a group, and the groups of the
    smallest hashes are taken, as far as the share allows. A stream is cut by the sentences of one
    language alone (the first by its code), at about this share; at most 1,000 pairs of it are held.

    Raises:
        InputError: nothing is left for one of the two parts.
    """
    threshold = percentage / 100
    source_lang, target_lang = dataset.features["translation"].languages
    if isinstance(dataset, IterableDataset):
        lang = min(source_lang, target_lang)

        def share(row: dict[str, Any]) -> float:
            return hash_share(sentence_key(row["translation"][lang]))

        train = dataset.filter(lambda row: share(row) >= threshold)
        rest = dataset.filter(lambda row: share(row) < threshold)
        held = held_pairs(rest.take(_STREAM_VALIDATION_PAIRS), source_lang, target_lang)
        if not len(held):
            raise InputError("no pair for validation in the stream: give --validation_file")
        return train, held
    shares = np.array(hash_shares(zip(*pair_texts(dataset, source_lang, target_lang), strict=True)))
    groups, group_of, sizes = np.unique(shares, return_inverse=True, return_counts=True)
    most = min(max(1, int(len(dataset) * threshold)), len(dataset) - 1)
    is_held, room = np.zeros(len(groups), bool), most
    for group in np.flatnonzero(groups < threshold):
        if sizes[group] <= room:
            is_held[group] = True
            room -= sizes[group]
    if not is_held.any():  # none is below: the smallest will do, if there is one of such a size
        is_held[sizes.argmin()] = sizes.min() <= most
    if not is_held.any():
        raise InputError(
            f"cannot cut a validation split of {percentage:g} % from {len(dataset)} pairs: too "
            f"few, or they share sentences ({len(groups)} groups); give --validation_file"
        )
    in_validation = is_held[group_of]
    return (
        dataset.select(np.flatnonzero(~in_validation)),
        dataset.select(np.flatnonzero(in_validation)),
    )


# --- encoding ------------------------------------------------------------------------------------


def encode_pairs(
    dataset: AnyDataset,
    tokenizer: PreTrainedTokenizerFast,
    *,
    source_lang: str = "en",
    target_lang: str = "zh",
    max_source_length: int = 128,
    max_target_length: int = 128,
    truncate_long_pairs: bool = False,
    preprocessing_num_workers: int | None = None,
    training: bool = True,
) -> tuple[AnyDataset, DroppedPairs]:
    """Turn cleaned pairs into token ids, each side with `<eos>` at its end.

    The lengths are in tokens, `<eos>` included. Longer pairs are dropped; with
    `truncate_long_pairs`, and outside of training, they are truncated. Without
    `preprocessing_num_workers` this process does the work.

    Returns:
        Rows of `input_ids`, `attention_mask` and `labels`, and what was dropped. A label outside
        the tokenizer's target part has become `<unk>`; `unknown_labels` counts every `<unk>` label.
    """
    tokenizers = (tokenizer, for_targets(tokenizer))
    languages, max_lengths = (source_lang, target_lang), (max_source_length, max_target_length)
    num_target_ids = target_vocab_size(tokenizer)
    drops_long = training and not truncate_long_pairs

    def encode(batch: Batch) -> Batch:
        sides = []
        reasons = [_KEPT] * len(batch["translation"])
        for own, lang, longest in zip(tokenizers, languages, max_lengths, strict=True):
            # The backend itself: what the tokenizer wraps around it takes longer than the encoding.
            backend = own.backend_tokenizer
            backend.no_truncation()  # either may be left over from a call of the tokenizer
            backend.no_padding()
            texts = [row[lang] for row in batch["translation"]]
            ids = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
            for place, row in enumerate(ids):
                if len(row) > longest:
                    ids[place] = [*row[: longest - 1], EOS_ID]
                    if drops_long:
                        reasons[place] = _TOO_LONG
            sides.append(ids)
        sources, targets = sides
        labels = [[i if i < num_target_ids else UNK_ID for i in row] for row in targets]
        unknown = (row.count(UNK_ID) for row in labels)
        return {
            "input_ids": sources,
            "attention_mask": [[1] * len(row) for row in sources],
            "labels": labels,
            "reason": reasons,
            "unknown_labels": [n * (r == _KEPT) for n, r in zip(unknown, reasons, strict=True)],
        }

    features, notes = dict(ENCODED_FEATURES), ("unknown_labels",)
    return _map_and_drop(dataset, encode, features, notes, "Encoding", preprocessing_num_workers)


def pair_lengths(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each source and each target of an encoded data set, in its order."""
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    table = dataset.select_columns(["input_ids", "labels"]).with_format("arrow")[:]
    sides = [pc.list_value_length(table[name]).to_numpy() for name in ("input_ids", "labels")]
    return sides[0], sides[1]
