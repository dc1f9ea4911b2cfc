"""Where pairs come from: the bundled corpus, files, or a data set of the Hub, in one form.

Inside the package a pair is a row `{"translation": {source_lang: ..., target_lang: ...}}` of a
`datasets.Dataset`, or of an `IterableDataset` when streaming. Files of moderate size are held in
memory; larger ones, and data sets of the Hub, are memory-mapped tables in the cache of `datasets`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, TypeAlias

from datasets import (
    Dataset,
    DatasetInfo,
    Features,
    IterableDataset,
    Translation,
    TranslationVariableLanguages,
)
from datasets import load_dataset as load_hub_dataset

from ..errors import InputError
from ..files import PACKED
from ..languages import base_language, language_name, language_of, probable_language
from .columns import Sides
from .readers import Pair, file_stamp, open_pairs, pair_paths, tell_sides
from .tables import say_once

AnyDataset: TypeAlias = Dataset | IterableDataset

BUNDLED_PAIRS = Path(__file__).parents[1] / "pairs" / "pairs.tsv"
_IN_MEMORY_BYTES = 2**28
_UNPACKED_BYTES = 8  # for each byte of a packed file, at a guess
_MOST_SHOWN = 20  # names in a message
_LABEL = re.compile("[a-z]+([-_][a-z0-9]+)*", re.IGNORECASE)
_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test",),
}


def check_languages(source_lang: str, target_lang: str) -> None:
    """Raise an `InputError` unless both can name columns: codes, or labels such as `graphemes`."""
    for flag, code in {"source_lang": source_lang, "target_lang": target_lang}.items():
        is_code = len(re.split("[-_]", code)[0]) <= 3
        named = None if is_code else language_of(code, everywhere=True)
        if named or not _LABEL.fullmatch(code):
            advice = f": give {named}" if named else ", such as en, zh or zh-Hant"
            raise InputError(f"--{flag} {code!r} is no language code{advice}")
        if language_of(code) is None and (meant := probable_language(code)):
            name = language_name(meant)
            say_once(f"--{flag} {code} is a label, no language; if {name} is meant, give {meant}")


def bundled_pairs(source_lang: str = "en", target_lang: str = "zh") -> dict[str, Dataset]:
    """The package's own pairs, split by hash: about 90 % train, 5 % validation, 5 % test.

    Raises:
        InputError: languages other than English and Chinese.
    """
    check_languages(source_lang, target_lang)
    pairs = list(open_pairs(str(BUNDLED_PAIRS), source_lang, target_lang))
    splits: dict[str, list[Pair]] = {name: [] for name in _SPLIT_NAMES}
    for pair, share in zip(pairs, hash_shares(pairs), strict=True):
        split = "test" if share < 0.05 else "validation" if share < 0.1 else "train"
        splits[split].append(pair)
    return {name: pair_table(split, source_lang, target_lang) for name, split in splits.items()}


def pair_table(pairs: Iterable[Pair], source_lang: str, target_lang: str) -> Dataset:
    """An in-memory table of pairs, filled piece by piece: only Arrow's form is held whole."""
    import pyarrow as pa  # type: ignore[import-untyped]

    languages = sorted([source_lang, target_lang])  # the order in `Translation`'s struct
    features = translation_features(source_lang, target_lang)
    pieces = []
    iterator = iter(pairs)
    while piece := list(islice(iterator, 50_000)):
        columns = dict(zip((source_lang, target_lang), zip(*piece, strict=True), strict=True))
        sides = [pa.array(columns[lang], pa.string()) for lang in languages]
        pieces.append(pa.StructArray.from_arrays(sides, names=languages))
    column = pa.chunked_array(pieces, features.arrow_schema.field("translation").type)
    return Dataset(pa.table({"translation": column}), info=DatasetInfo(features=features))


def pair_texts(
    dataset: AnyDataset, source_lang: str, target_lang: str, limit: int | None = None
) -> tuple[list[str], list[str]]:
    """The source and the target sentences as two lists; of a stream, give a `limit`."""
    rows = dataset if limit is None else first_pairs(dataset, limit)
    sources: list[str] = []
    targets: list[str] = []
    for batch in rows.iter(batch_size=10_000):
        sources += [row[source_lang] for row in batch["translation"]]
        targets += [row[target_lang] for row in batch["translation"]]
    return sources, targets


def translation_features(source_lang: str, target_lang: str) -> Features:
    """The schema of a table of pairs."""
    return Features({"translation": Translation(languages=[source_lang, target_lang])})


def first_pairs(dataset: AnyDataset, limit: int) -> AnyDataset:
    """At most the first `limit` rows."""
    if isinstance(dataset, IterableDataset):
        return dataset.take(limit)
    return dataset.select(range(min(limit, len(dataset))))


# --- which split a pair belongs to ---------------------------------------------------------------


def hash_shares(pairs: Iterable[Pair]) -> list[float]:
    """For each pair a number in [0, 1) that depends on its sentences alone.

    Pairs that share a sentence on either side, directly or through others, get the same number,
    so a cut at a threshold never puts one sentence into two splits. Sentences are compared
    without case, punctuation and white space. The number is the SHA-256 of the group's smallest
    sentence, so it does not depend on the order of the pairs nor on which side is the source.
    """
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    keys = []
    for source, target in pairs:
        a, b = sentence_key(source), sentence_key(target)
        keys.append(a)
        low, high = sorted((root(parents.setdefault(a, a)), root(parents.setdefault(b, b))))
        parents[high] = low  # so that a root is its group's smallest sentence
    return [hash_share(root(key)) for key in keys]


def hash_share(key: str) -> float:
    """A text's SHA-256 as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def sentence_key(text: str) -> str:
    """What two sentences have in common that are the same but for case, marks and white space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isalnum()) or text


# --- files ---------------------------------------------------------------------------------------


def file_pairs(
    spec: str, source_lang: str, target_lang: str, *, streaming: bool = False, **reading: Any
) -> AnyDataset:
    """Read files of pairs, or aligned ones, into a table with the one column `translation`.

    With `streaming` a stream of its rows, which tells on the way what is wrong in a file. What else
    `open_pairs` takes, such as `encoding`, is handed on to it.

    Raises:
        InputError: see `open_pairs`; something that is no language code.
    """
    check_languages(source_lang, target_lang)
    known = [*reading.get("told", [])]
    pairs = open_pairs(spec, source_lang, target_lang, **reading)  # complains before any work
    sizes = (
        path.stat().st_size * (_UNPACKED_BYTES if path.suffix.lower() in PACKED else 1)
        for path in pair_paths(spec)
    )
    large = sum(sizes) > _IN_MEMORY_BYTES
    if not streaming and not large:
        return pair_table(pairs, source_lang, target_lang)
    tell_sides(spec, source_lang, target_lang, **reading)  # even where a cache has the table
    languages = {"source_lang": source_lang, "target_lang": target_lang}
    features = translation_features(**languages)
    values: dict[str, Any] = {"spec": spec, **languages, "stamp": file_stamp(spec)}
    values["reading"] = {**reading, "told": known}
    kind = IterableDataset if streaming else Dataset
    try:
        return kind.from_generator(_rows, features=features, gen_kwargs=values)
    except Exception as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _rows(
    spec: str, source_lang: str, target_lang: str, stamp: str, reading: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Rows for `from_generator`, whose cache knows by `stamp` when a file has changed."""
    for source, target in open_pairs(spec, source_lang, target_lang, **reading):
        yield {"translation": {source_lang: source, target_lang: target}}


# --- Hub -----------------------------------------------------------------------------------------


def hub_pairs(
    name: str,
    configuration: str | None,
    source_lang: str,
    target_lang: str,
    *,
    streaming: bool = False,
    num_held_out: int,
    split_names: Mapping[str, str | None],
    **columns: Any,
) -> dict[str, AnyDataset]:
    """Read `train`, and `validation` and `test` where they are, of a data set of the Hub.

    A local folder that looks like one will do. `configuration` is one of the data set's, such as
    `en-zh`, `split_names` says what it calls a split of ours where that is not plain, `columns` are
    those of `Sides`. With `streaming`, `train` is a stream, and of every other split at most
    `num_held_out` pairs are read.

    Raises:
        InputError: it cannot be loaded, has no such split or no such columns; no language code.
    """
    check_languages(source_lang, target_lang)
    sides = Sides(source_lang, target_lang, **columns)
    splits: dict[str, AnyDataset] = {}
    try:
        found = load_hub_dataset(name, configuration, streaming=streaming)
        for split, ours in _chosen_splits(name, list(found), split_names).items():
            splits[split] = _as_translation(found[ours], f"{name} ({ours})", sides)
            if streaming and split != "train":
                splits[split] = held_pairs(splits[split].take(num_held_out), *sides.languages)
            pairs = _pairs_of(splits[split], *sides.languages)
            sides.show(next((pair for pair in pairs if pair[0] is not None), None))
    except InputError:
        raise
    except Exception as error:  # network, name, configuration, file format: many kinds
        reason = _load_error(error, sides.languages)
        raise InputError(f"cannot load the data set {name}: {reason}") from None
    return splits


def held_pairs(stream: IterableDataset, source_lang: str, target_lang: str) -> Dataset:
    """Read a finite stream of pairs into memory."""
    return pair_table(_pairs_of(stream, source_lang, target_lang), source_lang, target_lang)


def _pairs_of(dataset: AnyDataset, source_lang: str, target_lang: str) -> Iterator[Pair]:
    for row in dataset:
        yield row["translation"][source_lang], row["translation"][target_lang]


def _chosen_splits(
    name: str, found: Sequence[str], wanted: Mapping[str, str | None]
) -> dict[str, str]:
    """What the data set calls each split of ours that it has; none of its splits counts twice."""
    chosen: dict[str, str] = {}
    for split in sorted(_SPLIT_NAMES, key=lambda split: not wanted.get(split)):  # flags first
        aliases = [wanted[split]] if wanted.get(split) else _SPLIT_NAMES[split]
        free = [alias for alias in aliases if alias in found and alias not in chosen.values()]
        if free:
            chosen[split] = str(free[0])
        elif wanted.get(split) or split == "train":
            shown = ", ".join(found[:_MOST_SHOWN]) + (" ..." if len(found) > _MOST_SHOWN else "")
            taken = " left" if aliases[0] in found else ""
            raise InputError(
                f"the data set {name} has no split {aliases[0]!r}{taken}, only: {shown}; name one "
                f"with --{split}_split"
            )
    return {split: chosen[split] for split in _SPLIT_NAMES if split in chosen}


def _load_error(error: Exception, languages: Pair) -> str:
    """What the library says, in one line; of a list of configurations, those that may fit."""
    text = " ".join(str(error).split()) or type(error).__name__
    head, _, tail = text.partition(": [")
    names = re.findall("'([^']+)'", tail.partition("]")[0])
    if "onfig" not in head or not names:
        return text
    run = {base_language(lang) for lang in languages}
    fits = [n for n in names if run <= {base_language(word) for word in re.split("[^A-Za-z]", n)}]
    shown = (fits or names)[:_MOST_SHOWN]
    more = len(names) - len(shown)
    rest = f" ({more} more{'' if fits else '; none names both languages'})" if more else ""
    return f"{head.split('. ')[0]}: give --dataset_config_name, such as {', '.join(shown)}{rest}"


def _as_translation(dataset: AnyDataset, where: str, sides: Sides) -> AnyDataset:
    """Bring columns of known names, flat or nested under `translation`, into our form."""
    features = dataset.features
    if features is None:  # a stream that has not looked at its first row yet
        features = dataset._resolve_features().features
    inner = features.get("translation")
    varies = isinstance(inner, TranslationVariableLanguages) or (
        isinstance(inner, dict) and set(inner) == {"language", "translation"}
    )
    nested = varies or isinstance(inner, Translation | dict)
    names = getattr(inner, "languages", None)
    if varies and not names:
        rows = first_pairs(dataset.select_columns(["translation"]), 100)
        names = dict.fromkeys(lang for row in rows for lang in row["translation"]["language"])
    names = list(names or (inner if nested else features))
    languages, found = sides.languages, sides.of_names(where, names)
    kept = ["translation"] if nested else list(found)
    return dataset.select_columns(kept).map(
        partial(_rename, columns=found, languages=languages, nested=nested, varies=varies),
        batched=True,
        remove_columns=kept,
        features=translation_features(*languages),
    )


def _rename(
    batch: dict[str, list[Any]], columns: Pair, languages: Pair, nested: bool, varies: bool
) -> dict[str, list[dict[str, str]]]:
    """Pairs in our form; where languages vary, each source with each of its translations."""
    source, target = columns
    texts: list[tuple[Any, Any]] = []
    if varies:
        for row in filter(None, batch["translation"]):
            sides: dict[str, list[Any]] = {source: [], target: []}
            for lang, text in zip(row["language"], row["translation"], strict=True):
                sides.get(lang, []).append(text)
            texts += product(sides[source] or [""], sides[target] or [""])
    elif nested:
        rows = (row or {} for row in batch["translation"])
        texts = [(row.get(source), row.get(target)) for row in rows]
    else:
        texts = list(zip(batch[source], batch[target], strict=True))
    for name, value in ((name, v) for pair in texts for name, v in zip(columns, pair, strict=True)):
        if not isinstance(value, str | None):
            raise InputError(f"the data set's column {name!r} must hold text, not {value!r:.60}")
    return {"translation": [{languages[0]: a or "", languages[1]: b or ""} for a, b in texts]}
