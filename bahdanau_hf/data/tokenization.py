"""One vocabulary for both languages, in a stock fast tokenizer that needs no code of ours to load.

Two kinds:

- `bpe`: byte-pair encoding. Every Chinese character stands alone, a Latin word carries the space
  before it (`" us"`), punctuation, digits and English clitics (`'s`, `n't`'s `'t`) are split off.
  Text is encoded without loss: what the vocabulary lacks is spelt in bytes, and decoding returns
  the input in Unicode NFC (lower-cased, if so trained). The first word of a text is given the
  space that it would have inside, so both share one token; decoding takes that space away again.
- `word-char`: the vocabulary of the d2l tutorials: lower-cased words with punctuation split off,
  one Chinese character per token, `<unk>` for what is rare. Spaces are not stored; decoding puts
  them between Latin words and never beside Chinese.

Ids stand in this order: `SPECIAL_TOKENS`, every token that a target may need, the rest. The first
two groups are the target part: what the decoder embeds and can emit. It holds what the training
targets use, and bytes, digits and marks, which any target may come to use.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ..errors import InputError, first_line
from ..languages import CJK_MARKS, CJK_SCRIPTS
from ..modeling.text_bahdanau import (
    BOS_ID,
    BYTE_TOKENS,
    EOS_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    UNK_ID,
    clean_text,
)

__all__ = [
    "BOS_ID",
    "BYTE_TOKENS",
    "EOS_ID",
    "PAD_ID",
    "SPECIAL_TOKENS",
    "UNK_ID",
    "clean_text",
    "extend_tokenizer",
    "load_tokenizer",
    "target_vocab_size",
    "tokenizer_settings",
    "train_tokenizer",
]

logger = logging.getLogger(__name__)

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
    vocab_size: int = 8000,
    min_frequency: int = 2,
    lowercase: bool = False,
    source_lang: str = "en",
    target_lang: str = "zh",
    model_max_length: int | None = None,
) -> PreTrainedTokenizerFast:
    """Train a joint tokenizer on the two sides of the training pairs.

    The same texts give the same `tokenizer.json`, byte for byte.

    Args:
        source_texts: source sentences, as `clean_text` leaves them.
        target_texts: target sentences; their tokens get the low ids.
        kind: `bpe` or `word-char`.
        vocab_size: upper bound of the joint vocabulary, special and byte tokens included; `bpe`
            only, at least 261.
        min_frequency: `bpe`: rarer characters are spelt in bytes, rarer pairs are not merged;
            `word-char`: rarer words and characters become `<unk>`.
        lowercase: `bpe`: turn all text into lower case (`word-char` always does).
        source_lang: language code of the source, kept with the tokenizer.
        target_lang: language code of the target, kept with the tokenizer.
        model_max_length: tokens that `truncation=True` cuts to; default: no limit.

    Returns:
        A tokenizer with `<eos>` after both sides; `init_kwargs` holds `target_vocab_size`,
        `tokenizer_kind`, `min_frequency`, `source_lang` and `target_lang`, and `save_pretrained`
        keeps them.

    Raises:
        InputError: no text at all, an unknown kind, or a `vocab_size` too small for the bytes.
    """
    sources, targets = list(source_texts), list(target_texts)
    if not any(sources) or not any(targets):
        raise InputError("cannot train a tokenizer: one side of the training pairs has no text")
    if kind == "bpe":
        backend = _train_bpe(sources + targets, vocab_size, min_frequency, lowercase)
    elif kind == "word-char":
        backend = _train_word_char(sources + targets, min_frequency)
    else:
        raise InputError(f"unknown tokenizer_kind {kind!r}: choose bpe or word-char")
    needed = {i for encoding in backend.encode_batch(targets) for i in encoding.ids}
    needed |= {i for token, i in backend.get_vocab().items() if _is_for_any_text(token)}
    order = [*SPECIAL_TOKENS, *_tokens_by_id(backend, needed)]
    target_size = len(order)
    order += _tokens_by_id(backend, set(range(backend.get_vocab_size())) - needed)
    length = {} if model_max_length is None else {"model_max_length": model_max_length}
    return wrap_tokenizer(
        _renumbered(backend, order),
        target_vocab_size=target_size,
        tokenizer_kind=kind,
        min_frequency=min_frequency,
        source_lang=source_lang,
        target_lang=target_lang,
        **length,
    )


class TokenizersBackend(PreTrainedTokenizerFast):
    """The library's own, under whose name it is saved; tokens that are added to it stay whole.

    Our marks are split where somebody types them, and the library splits all other special tokens
    alike: those that are added are special to it and plain to its backend.
    """

    def _add_tokens(self, new_tokens: list[str | AddedToken], special_tokens: bool = False) -> int:
        marks, others = [], []
        for token in new_tokens:
            if str(token) in SPECIAL_TOKENS:
                marks.append(token)
                continue
            token = token if isinstance(token, AddedToken) else AddedToken(token)
            strips = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip")}
            # Normalised, it would be sought with the space that stands before a text's first word.
            others.append(AddedToken(token.content, normalized=False, special=False, **strips))
        return super()._add_tokens(marks, special_tokens) + super()._add_tokens(others)


def _is_for_any_text(token: str) -> bool:
    """Whether it is a byte, or has no letter: a digit, a mark, a space."""
    return token in BYTE_TOKENS or not any(unicodedata.category(c)[0] in "LM" for c in token)


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int,
) -> None:
    """Add the frequent words and characters of new texts; all tokens become the target part.

    Ids stay as they are, the new ones follow, and text without a new word is encoded as before. The
    model needs `resize_token_embeddings(len(tokenizer))`.

    Args:
        tokenizer: changed in place.
        texts: of both sides, as `clean_text` leaves them.
        vocab_size: most entries afterwards, the old ones included.
        min_frequency: rarer words stay as they were spelt.

    Raises:
        InputError: there is no room for a new entry.
    """
    backend, vocab = tokenizer.backend_tokenizer, tokenizer.get_vocab()
    if vocab_size <= len(vocab):
        raise InputError(
            f"--extend_vocabulary: the vocabulary has {len(vocab)} entries already: give a "
            f"--vocab_size above {len(vocab)}"
        )
    counts = _count_pieces(backend, texts)
    ranked = sorted((-n, piece) for piece, n in counts.items() if n >= min_frequency)
    new = [piece for _, piece in ranked if piece not in vocab][: vocab_size - len(vocab)]
    logger.info("--extend_vocabulary: %d new entries after %d", len(new), len(vocab))
    if not new:
        return
    content = json.loads(backend.to_str())["model"]
    ids = {token: i for i, token in enumerate([*sorted(vocab, key=vocab.__getitem__), *new])}
    if content["type"] == "BPE":
        merges = [tuple(pair) for pair in content["merges"]]
        # A word that stands in the vocabulary is taken whole: no merges lead to the new ones.
        options = {"byte_fallback": True, "unk_token": "<unk>", "ignore_merges": True}
        backend.model = models.BPE(ids, merges, **options)
    else:
        backend.model = models.WordLevel(ids, unk_token="<unk>")
    tokenizer.init_kwargs["target_vocab_size"] = len(ids)


def wrap_tokenizer(backend: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    """Make transformers' tokenizer of one with our special tokens: sentences end in `<eos>`."""
    backend.post_processor = TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B:1 <eos>:1", special_tokens=[("<eos>", EOS_ID)]
    )
    return TokenizersBackend(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # "<eos>" typed by somebody is text, not the end of a sentence
        **settings,
    )


def target_vocab_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many ids, from 0, the target side may use; all of them if the tokenizer does not say."""
    return int(tokenizer.init_kwargs.get("target_vocab_size") or len(tokenizer))


def tokenizer_settings(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What a tokenizer was made with, by the names of the flags; `None`: it does not say."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return {
        **{name: tokenizer.init_kwargs.get(name) for name in ("tokenizer_kind", "min_frequency")},
        "vocab_size": len(tokenizer),
        "lowercase": normalizer is not None and "a" in normalizer.normalize_str("A"),
    }


def load_tokenizer(
    path: str | Path, revision: str | None = None, **hub: Any
) -> PreTrainedTokenizerFast:
    """Load a tokenizer of ours from a folder or a Hub repository; runs no code, asks nothing.

    A `revision` is a branch, tag or commit of the repository; `subfolder`, `token` and
    `local_files_only` are those of `from_pretrained`.

    Raises:
        InputError: nothing there, unreadable, or not one of ours (other ids 0 to 3).
    """
    try:
        tokenizer = TokenizersBackend.from_pretrained(str(path), revision=revision or "main", **hub)
    except Exception as error:  # the backend raises bare Exception for a broken tokenizer.json
        raise InputError(f"cannot load a tokenizer from {path}: {first_line(error)}") from None
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    if ids != [PAD_ID, BOS_ID, EOS_ID, UNK_ID]:
        raise InputError(
            f"the tokenizer of {path} is not one of ours: {' '.join(SPECIAL_TOKENS)} must have "
            "the ids 0 to 3; train one with bahdanau-hf train-tokenizer"
        )
    for name, least in (("model_max_length", 2), ("target_vocab_size", 1)):
        value = tokenizer.init_kwargs.get(name)
        if value is not None and not (type(value) in (int, float) and value >= least):
            raise InputError(
                f"{path}/tokenizer_config.json does not make sense: {name} must be a number of at "
                f"least {least}, not {value!r:.60}"
            )
    return tokenizer


def _train_bpe(
    texts: Sequence[str], vocab_size: int, min_frequency: int, lowercase: bool
) -> Tokenizer:
    """Learn the merges; ids are provisional and hold no special token yet."""
    room = vocab_size - len(SPECIAL_TOKENS) - len(BYTE_TOKENS)
    if room < 1:
        raise InputError(f"--vocab_size {vocab_size} is too small for bpe: at least 261")
    steps: list[normalizers.Normalizer] = [normalizers.NFC()]
    if lowercase:
        steps += [normalizers.Lowercase(), normalizers.NFC()]
    steps += [normalizers.Prepend(" "), normalizers.Replace(Regex(_NEEDLESS_SPACE), "")]
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_BPE_PIECE), "isolated")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
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
    learnt = json.loads(backend.to_str())["model"]
    tokens = [*sorted(learnt["vocab"], key=learnt["vocab"].__getitem__), *BYTE_TOKENS]
    backend.model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in learnt["merges"]],
        byte_fallback=True,
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def _train_word_char(texts: Sequence[str], min_frequency: int) -> Tokenizer:
    """Count words and characters; ids are provisional, by frequency, then in alphabetical order."""
    backend = Tokenizer(models.WordLevel())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.NFC()]
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD_CHAR_PIECE), "removed", invert=True)
    counts = _count_pieces(backend, texts)
    ranked = sorted((-n, token) for token, n in counts.items() if n >= min_frequency)
    tokens = [*(token for _, token in ranked), "<unk>"]
    backend.model = models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>")
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),  # puts the spaces
            decoders.Fuse(),
            decoders.Replace(Regex(_UNWRITTEN_SPACE), ""),
        ]
    )
    return backend


def _count_pieces(backend: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word, mark or character occurs that the tokenizer cuts text into at first."""
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        counts.update(piece for piece, _ in pieces)
    return counts


def _tokens_by_id(backend: Tokenizer, ids: Iterable[int]) -> list[str]:
    tokens = [str(backend.id_to_token(i)) for i in sorted(ids)]
    return [token for token in tokens if token not in SPECIAL_TOKENS]


def _renumbered(backend: Tokenizer, order: Sequence[str]) -> Tokenizer:
    """The same tokenizer with the ids of `order`, which adds the special tokens."""
    vocab = {token: i for i, token in enumerate(order)}
    content = json.loads(backend.to_str())
    if content["model"]["type"] == "BPE":
        merges = [tuple(pair) for pair in content["model"]["merges"]]
        backend.model = models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>")
    else:
        backend.model = models.WordLevel(vocab, unk_token="<unk>")
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return backend
