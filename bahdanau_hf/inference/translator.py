"""`Translator` puts a checkpoint to use: any number of sentences in, their translations out.

Sentences are read window by window, so that memory stays bounded however many come, sorted by
length and translated in batches; they are handed out in their order. A sentence's translation does
not depend on its neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..alignment.record import Alignment
from ..alignment.words import read_spans
from ..data.tokenization import for_targets, load_tokenizer
from ..errors import InputError
from ..modeling.matmul_bahdanau import fixed_weights
from ..modeling.pipeline_bahdanau import (
    EncodedSentence,
    encode_sentences,
    evaluating,
    max_source_length,
    read_attention,
)
from .confidence import read_log_probs, with_confidence
from .ensemble import check_padding, check_tokens, search_batch
from .glossary import Glossary, keep_terms
from .kept_memory import KeptMemory
from .loading import check_tokenizer, load_model, move_model
from .search_options import SearchRequest, check_attention, check_positive, make_request
from .segmentation import Piece, join_pieces, split_clauses, split_sentences, without_marks
from .translation import Draft, Translation, make_alignment, make_translation

logger = logging.getLogger(__name__)

WINDOW_BATCHES = 32  # batches whose sentences are sorted by length together
_TOKENS_PER_ROW = 256  # of longer sentences a batch has fewer
_SCORE_BYTES = 2**29  # generate() keeps the scores of all words at each step


class Translator:
    """Translates with a model and its tokenizer.

    Args:
        model: the model; it is left in the mode, training or not, in which it was.
        tokenizer: the tokenizer it was trained with.
        batch_size: sentences in a batch, at most; of very long ones it takes fewer.
        device: where to run, such as `"cpu"` or `"cuda:0"`; default: where the model is.
        dtype: `"float32"`, `"bfloat16"`, `"float16"`, `"auto"`, or, on CPUs, `"int8"`; default: as
            the model is. `"auto"` is bfloat16 where the processor or GPU multiplies it in hardware,
            else float32. In int8 the encoder, greedy and beam search multiply in 8 bits (see the
            model's `use_int8`); scores, alignments and sampling do not.
        ensemble: further models with the same tokenizer, which translate together with the first:
            each word's probability is the mean of theirs. Where a model looks is asked of the
            first alone.

    Attributes:
        max_source_length: tokens of a sentence that the model reads, the end included; `None`: all.

    Raises:
        InputError: the tokenizer does not belong to a model, a size below 1, a device or dtype that
            does not exist here, an ensemble in int8, or one of which some models read padding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int = 64,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        ensemble: Sequence[PreTrainedModel] = (),
    ) -> None:
        check_positive(batch_size=batch_size)
        for one in (model, *ensemble):
            check_tokenizer(one.config, tokenizer)
        check_padding([model, *ensemble])
        self.model, *self.ensemble = (move_model(one, device, dtype) for one in (model, *ensemble))
        if self.ensemble and any(one.int8 for one in (self.model, *self.ensemble)):
            raise InputError("an ensemble does not compute in int8: take another dtype")
        self.tokenizer = tokenizer
        self.target_tokenizer = for_targets(tokenizer)
        self.batch_size = batch_size
        self.max_source_length = max_source_length(tokenizer)
        self._kept_memory = KeptMemory()

    @property
    def dtype(self) -> str:
        """The number format in which it translates: `"float32"`, `"int8"`, ..."""
        return "int8" if self.model.int8 else str(self.model.dtype).removeprefix("torch.")

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int = 64,
        ensemble: Sequence[str | Path] = (),
        *,
        subfolder: str = "",
        variant: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Translator:
        """Load a checkpoint from a folder or a Hub repository; no code in it is run.

        Args:
            path_or_repo: folder, or name of a repository.
            revision: branch, tag or commit of the repository.
            device: default: a GPU if there is one.
            dtype: as the constructor's; default: as saved.
            batch_size: as the constructor's.
            ensemble: folders or repositories of checkpoints that translate together with this one.
            subfolder: folder of the checkpoint inside folder or repository.
            variant: middle of the weights' file name, such as `"fp16"`.
            token: access token of the Hub; default: the one of `hf auth login`.
            local_files_only: take what was downloaded before, and ask the Hub for nothing.

        Raises:
            InputError: nothing there, a checkpoint that is damaged or of another kind of model, a
                tokenizer that does not belong to it, or checkpoints with different tokens; and as
                the constructor.
        """
        hub: dict[str, Any] = {"token": token, "local_files_only": local_files_only}
        model = load_model(path_or_repo, revision, variant=variant, subfolder=subfolder, **hub)
        others = [load_model(other, **hub) for other in ensemble]
        tokenizer, *tokenizers = (load_tokenizer(one.name_or_path) for one in (model, *others))
        check_tokens([model, *others], [tokenizer, *tokenizers])
        if device is None:
            on_gpu = torch.cuda.is_available() and dtype not in ("int8", torch.int8)
            device = "cuda" if on_gpu else "cpu"
        return cls(model, tokenizer, batch_size, device, dtype, others)

    def translate(
        self,
        texts: str | Iterable[str],
        num_beams: int | None = None,
        num_return_sequences: int = 1,
        return_alignments: bool = False,
        max_new_tokens: int | None = None,
        length_penalty: float | None = None,
        return_scores: bool = False,
        replace_unknown: bool | Mapping[str, str] = False,
        return_confidence: bool = False,
        glossary: Glossary | None = None,
        **generate_kwargs: Any,
    ) -> list[Any]:
        """Translate a sentence, or any number of them.

        Args:
            texts: one sentence, or an iterable of them.
            num_beams: beams of the search; default: the checkpoint's `generation_config`.
            num_return_sequences: so many different translations of each sentence, best first;
                fewer where the search finds fewer. More than one needs as many beams (taken if
                `num_beams` is not given) or `do_sample=True`.
            return_alignments: also say where the model looked.
            max_new_tokens: stop after so many tokens; default: the `generation_config`.
            length_penalty: with beams: above 1 prefers longer translations, below 1 shorter ones.
            return_scores: also say how probable a translation is, which takes longer. Several
                translations of a sentence always say so.
            replace_unknown: put, for each `<unk>` that the model writes, the source word it looks
                at most while it does (a name, a number), or what a dictionary has for this word
                (as it is written, else in lower case). Otherwise it is left out of the text.
            return_confidence: also say of each word how probable it is that it is right, which a
                checkpoint knows whose training has calibrated it.
            glossary: words whose translation is given. They stand in the translation exactly as
                they are given there, where the model looks at their source words; what comes behind
                is searched for again. URLs and e-mail addresses are copied without a glossary too.
            **generate_kwargs: further arguments of `model.generate`.

        Returns:
            For each sentence a `Translation`, or, if `num_return_sequences` is above 1, a list of
            them. A single sentence gives a list of one.

        Raises:
            InputError: a sentence that is not text, or sizes that make no sense.
            ValueError: further arguments that `generate` refuses.
        """
        return list(
            self.stream(
                [texts] if isinstance(texts, str) else texts,
                num_beams=num_beams,
                num_return_sequences=num_return_sequences,
                return_alignments=return_alignments,
                max_new_tokens=max_new_tokens,
                length_penalty=length_penalty,
                return_scores=return_scores,
                replace_unknown=replace_unknown,
                return_confidence=return_confidence,
                glossary=glossary,
                **generate_kwargs,
            )
        )

    def stream(
        self, texts: Iterable[str], *, window: int | None = None, **options: Any
    ) -> Iterator[Any]:
        """Translate sentences as they come, in bounded memory; they may never end.

        Of them `window` are read, sorted and translated together, by default 32 batches; 1 gives
        each translation before the next sentence is read. Options, errors and what is yielded are
        those of `translate`.
        """
        if isinstance(texts, str):
            raise InputError("stream takes an iterable of sentences; translate takes a single one")
        if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
            raise InputError(
                f"sentences come as text or as an iterable of texts, not as {type(texts).__name__}"
            )
        window = WINDOW_BATCHES * self.batch_size if window is None else window
        check_positive(window=window)
        return self._stream(iter(texts), window, make_request(self.model, **options))

    def translate_text(self, text: str, **options: Any) -> Translation:
        """Translate a whole text of any length; paragraphs and line breaks stay where they are.

        The text is cut into sentences, and a sentence that is longer than the model reads into
        clauses; their translations are joined again, without spaces where both sides are written
        without them, as in Chinese. Options and errors are those of `translate`, but for
        `num_return_sequences` and those that begin with `return`, which belong to sentences.
        """
        if not isinstance(text, str):
            raise InputError(f"a text must be text, not {text!r:.60}")
        for name in options:
            if name == "num_return_sequences" or name.startswith("return_"):
                raise InputError(f"{name} belongs to sentences: use translate")
        pieces = self.split_text(text)
        translations = self.translate([piece.text for piece in pieces], **options)
        written = join_pieces(pieces, [translation.text for translation in translations])
        is_cut = any(t.truncated for t in translations)
        copied = {t.copied for t in translations if t.text}
        return Translation(text, written, truncated=is_cut, copied=copied == {True})

    def split_text(self, text: str) -> list[Piece]:
        """Cut a text into sentences, and one that is longer than the model reads into clauses."""

        def fits(part: str) -> bool:
            bare = [without_marks(part)]
            (read,) = encode_sentences(self.tokenizer, bare, self.max_source_length, True)
            return not read.truncated

        pieces: list[Piece] = []
        for sentence in split_sentences(text):
            *parts, last = split_clauses(sentence.text, fits)
            pieces += [*parts, Piece(last.text, sentence.space)]
        return pieces

    def align(self, source: str, target: str | None = None) -> Alignment:
        """Say where the model looks while it writes a translation, its own or one handed to it.

        The weights have a row for each target token and a column for each source token, the ends
        included; `words` says the same of words. The bytes of a character that is spelt in bytes
        are shown as this character.

        Raises:
            InputError: nothing to align, or a model without attention.
        """
        if target is None:
            translation = self.translate(source, return_alignments=True)[0]
            if translation.alignment is None:
                raise InputError("the sentence is blank or is copied: there is nothing to align")
            return translation.alignment
        return self.align_pairs([source], [target])[0]

    def align_pairs(self, sources: Sequence[str], targets: Sequence[str]) -> list[Alignment]:
        """Align sentences with given translations, as `align` does one, with the same errors."""
        check_attention(self.model)
        tok, target_tok = self.tokenizer, self.target_tokenizer
        sentences = encode_sentences(tok, sources, self.max_source_length)
        target_ids = [target.ids for target in encode_sentences(target_tok, targets)]
        if not all(sentence.ids for sentence in sentences) or not all(target_ids):
            raise InputError("one of the sentences is blank: there is nothing to align")
        cut = [number for number, s in enumerate(sentences, start=1) if s.truncated]
        self._announce_truncated(len(cut), len(sentences), *cut[:1])
        with evaluating(self.model):
            pairs = zip((s.ids for s in sentences), target_ids, strict=True)
            weights = list(self._attend(list(pairs)))
        return [
            make_alignment(tok, w, s.ids, t, (s.text, text), read_spans(target_tok, text, len(t)))
            for s, text, t, w in zip(sentences, targets, target_ids, weights, strict=True)
        ]

    # --- from sentences to translations ----------------------------------------------------------

    def _stream(self, texts: Iterator[str], window: int, request: SearchRequest) -> Iterator[Any]:
        num_read = num_truncated = first_truncated = 0
        try:
            while chunk := list(islice(texts, window)):
                for i, text in enumerate(chunk, start=num_read + 1):
                    if not isinstance(text, str):
                        raise InputError(f"sentence {i} is not text: {text!r:.60}")
                sentences = encode_sentences(self.tokenizer, chunk, self.max_source_length, True)
                for i, sentence in enumerate(sentences, start=num_read + 1):
                    first_truncated = first_truncated or i * sentence.truncated
                    num_truncated += sentence.truncated
                num_read += len(chunk)
                for alternatives in self._translations(sentences, request):
                    yield alternatives if request.num_return_sequences > 1 else alternatives[0]
                self._kept_memory.give_back()
        finally:
            self._announce_truncated(num_truncated, num_read, first_truncated)

    def _announce_truncated(self, num_truncated: int, num_read: int, first: int = 0) -> None:
        if num_truncated:
            logger.warning(
                f"{num_truncated} of {num_read} sentences had more than {self.max_source_length} "
                f"tokens and lost their end; the first is number {first}"
            )

    def _translations(
        self, sentences: Sequence[EncodedSentence], request: SearchRequest
    ) -> list[list[Translation]]:
        """Translate a window; the alternatives of each sentence, in their order."""
        results = [[request.untranslated(sentence)] for sentence in sentences]
        # Longest first: if memory does not suffice, it shows at once.
        order = [i for i, sentence in enumerate(sentences) if sentence.ids]
        order.sort(key=lambda i: len(sentences[i].ids), reverse=True)
        drafts = [Draft(sentences[i]) for i in order]
        with ExitStack() as stack:
            stack.enter_context(fixed_weights())
            for model in (self.model, *self.ensemble):
                stack.enter_context(evaluating(model))
            self._search(drafts, request)
            self._keep_terms(drafts, request)
            for i, translations in zip(order, self._finish(drafts, request), strict=True):
                results[i] = translations
        return results

    def _search(self, drafts: Sequence[Draft], request: SearchRequest) -> None:
        """Look for the translations of drafts, the longest first, from where they were begun."""
        order = sorted(drafts, key=lambda draft: len(draft.begun))
        for _, alike in groupby(order, key=lambda draft: len(draft.begun)):
            waiting = list(alike)
            while waiting:
                size = self._batch_rows(len(waiting[0].sentence.ids), request)
                batch, waiting = waiting[:size], waiting[size:]
                search_batch([self.model, *self.ensemble], self.tokenizer, batch, request)

    def _batch_rows(self, longest: int, request: SearchRequest | None = None) -> int:
        """How many sentences of at most `longest` tokens make a batch."""
        rows = min(self.batch_size, self.batch_size * _TOKENS_PER_ROW // longest)
        if request is not None and request.return_scores:
            outputs = max(request.num_beams, request.num_return_sequences)
            words = self.model.config.vocab_size * request.max_new_tokens
            rows = min(rows, _SCORE_BYTES // (4 * outputs * words))
        return max(1, rows)

    def _keep_terms(self, drafts: Sequence[Draft], request: SearchRequest) -> None:
        """Search again where a term is missing; scores are those of whole translations."""
        if request.glossary is None:
            return
        search, config = partial(self._search, request=request), self.model.config
        attend = self._attend if config.use_attention else None
        tokenizers = (self.tokenizer, self.target_tokenizer)
        keep_terms(drafts, request.glossary, *tokenizers, config.vocab_size, search, attend)
        if request.return_scores:
            changed = [draft for draft in drafts if draft.given]
            log_probs = iter(self._log_probs(changed))
            for draft in changed:
                scored = [h._replace(score=request.score(next(log_probs))) for h in draft.found]
                draft.found = sorted(scored, key=lambda h: h.score or 0.0, reverse=True)

    def _log_probs(self, drafts: Sequence[Draft]) -> list[np.ndarray]:
        """How probable the tokens of all translations of drafts are, `(T,)` each."""
        sources = [draft.sentence.ids for draft in drafts for _ in draft.found]
        targets = [found.ids for draft in drafts for found in draft.found]
        return read_log_probs([self.model, *self.ensemble], self.tokenizer, sources, targets)

    def _attend(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[np.ndarray]:
        """Where the model looks in sources while it writes targets, `(T, S)` each."""
        while pairs:
            longest = max(len(source) for source, _ in pairs[: self.batch_size])
            size = self._batch_rows(longest)
            sources, targets = zip(*pairs[:size], strict=True)
            found = read_attention(self.model, self.tokenizer, sources, targets)
            yield from (weights.numpy() for weights in found)
            pairs = pairs[size:]

    def _finish(
        self, drafts: Sequence[Draft], request: SearchRequest
    ) -> Iterator[list[Translation]]:
        """Write out all translations of each draft."""
        pairs = [(draft.sentence.ids, found.ids) for draft in drafts for found in draft.found]
        weights = self._attend([(source, ids) for source, ids in pairs if request.looks_up(ids)])
        log_probs = iter(self._log_probs(drafts) if request.return_confidence else [])
        asked = (request.replacements, request.return_alignments)
        for draft in drafts:
            translations = []
            for found in draft.found:
                seen = next(weights) if request.looks_up(found.ids) else None
                translation = make_translation(self.tokenizer, draft, found, seen, *asked)
                translation = request.scored(translation, found)
                if request.return_confidence:
                    words = self.tokenizer.convert_ids_to_tokens(found.ids), next(log_probs)
                    translation = with_confidence(self.model, translation, *words)
                translations.append(translation)
            yield translations
