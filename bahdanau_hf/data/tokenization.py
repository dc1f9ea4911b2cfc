"""One vocabulary for both languages, in a stock fast tokenizer that needs no code of ours to load.

Four kinds, which `vocabulary` learns. Either side may have its own, but `bpe` joins both:

- `bpe`: byte-pair encoding. Every Chinese character stands alone, a Latin word carries the space
  before it (`" us"`), punctuation, digits and English clitics (`'s`, `n't`'s `'t`) are split off.
  Text is encoded without loss: what the vocabulary lacks is spelt in bytes, and decoding returns
  the input in Unicode NFC. The source may be read in lower case; the target keeps its case. The
  first word of a text is given the space that it would have inside, so both share one token;
  decoding takes that space away again.
- `word-char`: the vocabulary of the d2l tutorials: lower-cased words with punctuation split off,
  one Chinese character per token, `<unk>` for what is rare. Spaces are not stored; decoding puts
  them between Latin words and never beside Chinese.
- `char`: one character per token, spaces too. A source is decomposed (Unicode NFD): accents and the
  letters of a Korean syllable stand alone.
- `word`: what stands between spaces, such as the phones of a pronunciation.

A tokenizer reads sources and writes targets. Where targets are cut in another way, its
`target_encoding` says how, and `for_targets` gives a tokenizer that reads them.

Ids stand in this order: `SPECIAL_TOKENS`, every token that a target may need, the rest. The first
two groups are the target part: what the decoder embeds and can emit. It holds what the training
targets use, and bytes, digits and marks, which any target may come to use.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ..errors import InputError, first_line
from ..modeling.text_bahdanau import BOS_ID, EOS_ID, PAD_ID, SPECIAL_TOKENS, UNK_ID
from ..modeling.text_bahdanau import clean_text as clean_text


def for_targets(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer as it encodes targets: itself, where they are read as sources are."""
    side = tokenizer.init_kwargs.get("target_encoding")
    if side is None:
        return tokenizer
    twin = copy.deepcopy(tokenizer)
    twin.init_kwargs["target_encoding"] = None
    twin._tokenizer = Tokenizer.from_str(
        json.dumps({**json.loads(tokenizer.backend_tokenizer.to_str()), **side})
    )
    return twin


def side_kinds(tokenizer: PreTrainedTokenizerFast) -> tuple[str | None, str | None]:
    """The kinds of source and target; None: the tokenizer does not say."""
    kwargs = tokenizer.init_kwargs
    both = kwargs.get("tokenizer_kind")
    return kwargs.get("source_kind") or both, kwargs.get("target_kind") or both


class TokenizersBackend(PreTrainedTokenizerFast):
    """The library's own, under whose name it is saved; tokens that are added to it stay whole.

    Our marks are split where somebody types them, and the library splits all other special tokens
    alike: those that are added are special to it and plain to its backend. A `text_target` is
    encoded as a target.
    """

    _tokenizer: Tokenizer
    _reader: Tokenizer | None = None
    _writer: tuple[str, Tokenizer] | None = None  # for targets, and what it was made of

    def _switch_to_target_mode(self) -> None:
        side = self.init_kwargs.get("target_encoding")
        if side is None:
            return
        made_of = self._tokenizer.to_str() + json.dumps(side)
        if self._writer is None or self._writer[0] != made_of:  # making it takes long
            self._writer = made_of, for_targets(self).backend_tokenizer
        self._reader, self._tokenizer = self._tokenizer, self._writer[1]

    def _switch_to_input_mode(self) -> None:
        if self._reader is not None:
            self._tokenizer, self._reader = self._reader, None

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
    names = ("tokenizer_kind", "source_kind", "target_kind", "min_frequency")
    return {
        **{name: tokenizer.init_kwargs.get(name) for name in names},
        "vocab_size": len(tokenizer),
        "lowercase_source": normalizer is not None and "a" in normalizer.normalize_str("A"),
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
    wrong = f"{path}/tokenizer_config.json does not make sense"
    for name, least in (("model_max_length", 2), ("target_vocab_size", 1)):
        value = tokenizer.init_kwargs.get(name)
        if value is not None and not (type(value) in (int, float) and value >= least):
            said = f"{name} must be a number of at least {least}, not {value!r:.60}"
            raise InputError(f"{wrong}: {said}")
    try:
        for_targets(tokenizer)
    except Exception as error:  # bare, as above
        raise InputError(f"{wrong}: target_encoding: {first_line(error)}") from None
    return tokenizer
