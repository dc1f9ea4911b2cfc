"""Learning a vocabulary for both languages; the kinds are described in `tokenization`."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..languages import CJK_MARKS, CJK_SCRIPTS
from ..modeling.text_bahdanau import BYTE_TOKENS, SPECIAL_TOKENS
from .tokenization import for_targets, wrap_tokenizer

logger = logging.getLogger(__name__)

TOKENIZER_KINDS = ("bpe", "word-char", "char", "word")

_LETTER = r"\p{L}\p{M}"
# In this order: English clitics, one CJK character, a word, one digit or mark with the space before
# it, one white-space character. Every character matches something, so nothing can be lost.
_BPE_PIECE = (
    rf"['’](?:[smdtSMDT]|ll|re|ve|LL|RE|VE)(?![{_LETTER}\p{{N}}])"
    rf"|[{CJK_SCRIPTS}]| ?[[{_LETTER}]&&[^{CJK_SCRIPTS}]]+"
    rf"| ?\p{{N}}| ?[^\s{_LETTER}\p{{N}}]|\s|(?m:.)"
)
# The space that `Prepend` put before a text stays only before a word, a digit or a real space.
_NEEDLESS_SPACE = rf"\A (?![ {_LETTER}\p{{N}}])|\A (?=[{CJK_SCRIPTS}])"
_WORD = rf"[[{_LETTER}\p{{N}}_]&&[^{CJK_SCRIPTS}]]+"
_WORD_CHAR_PIECE = rf"[{CJK_SCRIPTS}]|{_WORD}(?:['’-]{_WORD})*|\S"
_UNWRITTEN_SPACE = (
    rf" (?=[{CJK_SCRIPTS}{CJK_MARKS}])|(?<=[{CJK_SCRIPTS}{CJK_MARKS}]) "
    r"| (?=[.,!?;:%)\]\}’”…/])|(?<=[(\[\{‘“$£€/]) "
)


def train_tokenizer(
    source_texts: Iterable[str],
    target_texts: Iterable[str],
    *,
    kind: str = "bpe",
    source_kind: str | None = None,
    target_kind: str | None = None,
    vocab_size: int = 8000,
    min_frequency: int = 2,
    lowercase_source: bool = False,
    source_lang: str = "en",
    target_lang: str = "zh",
    model_max_length: int | None = None,
) -> PreTrainedTokenizerFast:
    """Train a joint tokenizer on the two sides of the training pairs.

    The same texts give the same `tokenizer.json`, byte for byte.

    Args:
        source_texts: source sentences, as `clean_text` leaves them.
        target_texts: target sentences; their tokens get the low ids.
        kind: one of `TOKENIZER_KINDS`, for both sides.
        source_kind: the source's, where it is another.
        target_kind: the target's, where it is another.
        vocab_size: upper bound of the joint vocabulary, special and byte tokens included; `bpe`
            only, at least 261.
        min_frequency: `bpe`: rarer characters are spelt in bytes, rarer pairs are not merged;
            otherwise rarer words and characters become `<unk>`.
        lowercase_source: `bpe`: read sources in lower case (`word-char` always does, on both sides,
            as the tutorial).
        source_lang: language code, kept with the tokenizer.
        target_lang: likewise.
        model_max_length: tokens that `truncation=True` cuts to; default: no limit.

    Returns:
        A tokenizer with `<eos>` after both sides; `init_kwargs` holds `target_vocab_size`,
        `tokenizer_kind`, `source_kind` and `target_kind` (if given), `min_frequency`, `source_lang`
        and `target_lang`, and where the sides are cut differently `target_encoding`;
        `save_pretrained` keeps them.

    Raises:
        InputError: no text at all, an unknown kind, `bpe` on one side only, or a `vocab_size` too
            small for the bytes.
    """
    sources, targets = list(source_texts), list(target_texts)
    if not any(sources) or not any(targets):
        raise InputError("cannot train a tokenizer: one side of the training pairs has no text")
    kinds = (source_kind or kind, target_kind or kind)
    for name in kinds:
        if name not in TOKENIZER_KINDS:
            raise InputError(f"unknown kind {name!r}: choose {', '.join(TOKENIZER_KINDS)}")
    if kinds == ("bpe", "bpe"):
        texts = (sources, targets)
        reader, writer = _train_bpe(*texts, vocab_size, min_frequency, lowercase_source)
    elif "bpe" in kinds:
        raise InputError(f"kinds {' and '.join(kinds)} do not go together: bpe joins both sides")
    else:
        reader, writer = _train_words((sources, targets), kinds, min_frequency)
    vocab = reader.get_vocab()
    tokens = [t for t in sorted(vocab, key=vocab.__getitem__) if t not in SPECIAL_TOKENS]
    used = {i for encoding in writer.encode_batch_fast(targets) for i in encoding.ids}
    needed = {t for t in tokens if vocab[t] in used or _is_for_any_text(t)}
    _set_tokens(reader, [*SPECIAL_TOKENS, *sorted(tokens, key=lambda token: token not in needed)])
    reader.add_special_tokens(list(SPECIAL_TOKENS))
    settings = {
        "model_max_length": model_max_length,
        "source_kind": source_kind,
        "target_kind": target_kind,
        "target_encoding": _side(writer) if _side(writer) != _side(reader) else None,
    }
    return wrap_tokenizer(
        reader,
        target_vocab_size=len(SPECIAL_TOKENS) + len(needed),
        tokenizer_kind=kind,
        min_frequency=min_frequency,
        source_lang=source_lang,
        target_lang=target_lang,
        **{name: value for name, value in settings.items() if value},
    )


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
    sources: Iterable[str],
    targets: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int,
) -> None:
    """Add the frequent words and characters of new texts; all tokens become the target part.

    Ids stay as they are, the new ones follow, and text without a new word is encoded as before. The
    model needs `resize_token_embeddings(len(tokenizer))`. Texts are as `clean_text` leaves them.
    There are at most `vocab_size` entries afterwards, the old ones included; words rarer than
    `min_frequency` stay as they were spelt.

    Raises:
        InputError: there is no room for a new entry.
    """
    backend, vocab = tokenizer.backend_tokenizer, tokenizer.get_vocab()
    if vocab_size <= len(vocab):
        raise InputError(
            f"--extend_vocabulary: the vocabulary has {len(vocab)} entries already: give a "
            f"--vocab_size above {len(vocab)}"
        )
    counts = _count_pieces(backend, sources)
    counts += _count_pieces(for_targets(tokenizer).backend_tokenizer, targets)
    ranked = sorted((-n, piece) for piece, n in counts.items() if n >= min_frequency)
    new = [piece for _, piece in ranked if piece not in vocab][: vocab_size - len(vocab)]
    logger.info("--extend_vocabulary: %d new entries after %d", len(new), len(vocab))
    if not new:
        return
    # A word that stands in the vocabulary is taken whole: no merges lead to the new ones.
    tokens = [*sorted(vocab, key=vocab.__getitem__), *new]
    _set_tokens(backend, tokens, ignore_merges=True)
    tokenizer.init_kwargs["target_vocab_size"] = len(tokens)


def _side(backend: Tokenizer) -> dict[str, Any]:
    """How a backend prepares a text and cuts it, before it looks at its vocabulary."""
    parts = {"normalizer": backend.normalizer, "pre_tokenizer": backend.pre_tokenizer}
    return {name: json.loads(part.__getstate__()) for name, part in parts.items()}


def _is_for_any_text(token: str) -> bool:
    """Whether it is a byte, or has no letter: a digit, a mark, a space."""
    return token in BYTE_TOKENS or not any(unicodedata.category(c)[0] in "LM" for c in token)


def _train_bpe(
    sources: list[str],
    targets: list[str],
    vocab_size: int,
    min_frequency: int,
    lowercase_source: bool,
) -> tuple[Tokenizer, Tokenizer]:
    """Tokenizers for sources and for targets with one vocabulary, whose ids are not final."""
    room = vocab_size - len(SPECIAL_TOKENS) - len(BYTE_TOKENS)
    if room < 1:
        raise InputError(f"--vocab_size {vocab_size} is too small for bpe: at least 261")
    nfc = normalizers.NFC()
    lower = [normalizers.Lowercase(), nfc] if lowercase_source else []
    space = [normalizers.Prepend(" "), normalizers.Replace(Regex(_NEEDLESS_SPACE), "")]
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([nfc, *space])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_BPE_PIECE), "isolated")
    if lower:
        sources = [normalizers.Sequence([nfc, *lower]).normalize_str(text) for text in sources]
    texts = sources + targets
    counts: Counter[str] = Counter()
    for text in map(backend.normalizer.normalize_str, texts):
        counts.update(text)
    frequent = [(-n, char) for char, n in counts.items() if n >= min_frequency]
    # The trainer would break ties at its own limit at random: hand it the alphabet ready-made.
    alphabet = [char for _, char in sorted(frequent)[:room]]
    trainer = trainers.BpeTrainer(
        vocab_size=room,
        min_frequency=min_frequency,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    if alphabet:
        backend.train_from_iterator(texts, trainer)
    learnt = backend.get_vocab()
    _set_tokens(backend, [*sorted(learnt, key=learnt.__getitem__), *BYTE_TOKENS])
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    reader = Tokenizer.from_str(backend.to_str())
    reader.normalizer = normalizers.Sequence([nfc, *lower, *space])
    return reader, backend


def _train_words(
    texts: tuple[list[str], list[str]], kinds: tuple[str, str], min_frequency: int
) -> tuple[Tokenizer, Tokenizer]:
    """As `_train_bpe`, of words and characters; ids by frequency, then in alphabetical order."""
    backends = (Tokenizer(models.WordLevel()), Tokenizer(models.WordLevel()))
    counts: Counter[str] = Counter()
    nfc, nfd = normalizers.NFC(), normalizers.NFD()
    cuts: dict[str, Any] = {
        "word-char": pre_tokenizers.Split(Regex(_WORD_CHAR_PIECE), "removed", invert=True),
        "char": pre_tokenizers.Split(Regex("(?m:.)"), "isolated"),
        "word": pre_tokenizers.WhitespaceSplit(),
    }
    for backend, kind, side, is_source in zip(backends, kinds, texts, (True, False), strict=True):
        backend.normalizer = nfd if kind == "char" and is_source else nfc
        if kind == "word-char":
            backend.normalizer = normalizers.Sequence([nfc, normalizers.Lowercase(), nfc])
        backend.pre_tokenizer = cuts[kind]
        counts += _count_pieces(backend, side)
    ranked = sorted((-n, token) for token, n in counts.items() if n >= min_frequency)
    tokens = [*(token for _, token in ranked), "<unk>"]
    joining: list[Any] = [decoders.Fuse()]
    if kinds[1] != "char":
        joining.insert(0, decoders.WordPiece(prefix="##", cleanup=False))
    if kinds[1] == "word-char":
        joining.append(decoders.Replace(Regex(_UNWRITTEN_SPACE), ""))
    for backend in backends:
        _set_tokens(backend, tokens)
        backend.decoder = decoders.Sequence(joining)
    return backends


def _count_pieces(backend: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word, mark or character occurs that the tokenizer cuts text into at first."""
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        counts.update(piece for piece, _ in pieces)
    return counts


def _set_tokens(backend: Tokenizer, tokens: Sequence[str], ignore_merges: bool = False) -> None:
    """Give a backend the vocabulary of these tokens, by their ids; it keeps its merges."""
    vocab = {token: i for i, token in enumerate(tokens)}
    model = json.loads(backend.to_str())["model"]
    if model["type"] == "BPE":
        options = {"byte_fallback": True, "unk_token": "<unk>", "ignore_merges": ignore_merges}
        backend.model = models.BPE(vocab, [tuple(pair) for pair in model["merges"]], **options)
    else:
        backend.model = models.WordLevel(vocab, unk_token="<unk>")
