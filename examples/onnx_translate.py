"""Translate with an exported model; needs only ONNX Runtime, NumPy and tokenizers.

    bahdanau-hf export --model CHECKPOINT --output_dir exported
    pip install onnxruntime numpy tokenizers
    python examples/onnx_translate.py exported < sentences.txt > translations.txt

With `--format onnx-search` the export is one graph that holds the whole search, which is faster,
above all for single sentences; its number of beams is that of the export.

It gives the same translations as `bahdanau-hf translate`: same text cleaning, same greedy and beam
search. Only where two translations are equally likely up to rounding may it choose the other one.

Dimensions: B sentences, K beams, N = B K rows, S source, V target vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FORMAT = 1
SEARCH = "search.onnx"  # the one graph that takes all steps, if that is what was exported
NEVER = np.float32(-1.0e9)  # the score of what must not be chosen
CHARACTERS_PER_TOKEN = 256  # what is longer than so many a token is cut before it is encoded
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
# What is no language: addresses and code.
CODE = re.compile(
    r"(?:https?://|ftp://|www\.)[!#-;=?-~\u00a1-\u024f]+(?<![.,:;!?)'])"
    r"|(?a:(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+)|(?a:"
    r"`[^`]+`|</?[A-Za-z][^<>]*>|[$%]?\{[^{}]*\}|(?<!\w)\w*[A-Za-z]_\w+|(?<!\S)--?\w[\w-]*(?!\S)"
    r"|(?<![\w.])[A-Za-z_][\w.]*(?:\([^()]*\)|::\w+|->\w+| ?[-+*/|&:=!<>]?=+ ?[\w.\"']+);?)"
)
NOT_TEXT = re.compile("<(?:pad|bos|eos|unk|0x[0-9A-F]{2})>")


def clean_text(text: str) -> str:
    """Unicode NFC, nothing invisible, single spaces: what the model was trained on."""
    return " ".join(unicodedata.normalize("NFC", INVISIBLE.sub("", text)).split())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, `(N, V)`."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class Hypothesis(NamedTuple):
    """Tokens, without the start, and what the search ranks them by."""

    score: np.float32
    ids: list[int]


def batch_of(
    sources: Sequence[Sequence[int]], width: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, `(B, S)`; S is `width` or, if that is more, the longest source."""
    ids = np.full((len(sources), max(width, *map(len, sources))), pad, np.int64)
    mask = np.zeros_like(ids)
    for row, source in enumerate(sources):
        ids[row, : len(source)], mask[row, : len(source)] = source, 1
    return ids, mask


class Search:
    """A batch of sentences on its way: N rows, whose states move with their beams."""

    def __init__(
        self,
        encoder: onnxruntime.InferenceSession,
        decoder: onnxruntime.InferenceSession,
        sources: Sequence[Sequence[int]],
        width: int,
        num_beams: int,
        pad: int,
    ) -> None:
        ids, mask = batch_of(sources, width, pad)
        found = encoder.run(None, {"input_ids": ids, "attention_mask": mask})
        names = [output.name for output in encoder.get_outputs()]
        self._memory = {
            name: x.repeat(num_beams, axis=0) for name, x in zip(names, found, strict=True)
        }
        self._state = self._memory.pop("state")
        self._decoder = decoder

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Read one token a row and return the next one's logits, `(N, V)`."""
        ids = np.array(tokens, np.int64)[:, None]
        logits, self._state = self._decoder.run(
            ["logits", "next_state"], {"input_ids": ids, "state": self._state, **self._memory}
        )
        return logits

    def keep(self, rows: Sequence[int], sentences_left: bool) -> None:
        """Let row i go on from row `rows[i]`; beams of a sentence share what was read of it."""
        self._state = self._state[rows]
        if sentences_left:
            self._memory = {name: x[rows] for name, x in self._memory.items()}


class OnnxTranslator:
    """Translates with what `bahdanau-hf export` has written.

    Args:
        folder: the exported folder.
        num_threads: threads of ONNX Runtime; default: its own choice.

    Attributes:
        cut: numbers, from 1, of the last texts that were longer than the model reads.

    Raises:
        ValueError: the folder holds no export, or one of another version.
    """

    def __init__(self, folder: str | Path, num_threads: int = 0) -> None:
        folder = Path(folder)
        is_one = (folder / SEARCH).is_file()
        graphs = (SEARCH,) if is_one else ("encoder_model.onnx", "decoder_model.onnx")
        names = ("translation.json", "tokenizer.json", *graphs)
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ValueError(f"{folder} is not an exported model: no {' and no '.join(missing)}")
        self.settings: dict[str, Any] = json.loads((folder / names[0]).read_text(encoding="utf-8"))
        if self.settings.get("format") != FORMAT:
            raise ValueError(
                f"{folder} is of format {self.settings.get('format')}, not {FORMAT}: export again"
            )
        self.tokenizer = Tokenizer.from_file(str(folder / names[1]))
        self.tokenizer.encode_special_tokens = True  # "<eos>" typed by somebody is text
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        # A step is many short operators: threads that wait for work awake take the cores from it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions = [
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in graphs
        ]
        self._whole_search = sessions[0] if is_one else None
        self._encoder, self._decoder = sessions[0], sessions[-1]
        self.cut: list[int] = []

    def translate(
        self, texts: Iterable[str], num_beams: int | None = None, batch_size: int = 32
    ) -> list[str]:
        """Translate sentences; what holds no word that the model knows is copied.

        Args:
            texts: the sentences.
            num_beams: beams of the search; 1: greedy; default: the checkpoint's.
            batch_size: sentences that are translated together, those of like length.
        """
        texts, self.cut = list(texts), []
        sources, pad = [], self.settings["pad_token_id"]
        for number, text in enumerate(texts, start=1):
            ids, was_cut = self.encode(text)
            sources.append(ids)
            self.cut += [number] * was_cut
        printable = (text.strip().isprintable() for text in texts)
        translations = [
            text.strip() if is_plain else clean_text(text)
            for text, is_plain in zip(texts, printable, strict=True)
        ]
        order = sorted((i for i, ids in enumerate(sources) if ids), key=lambda i: -len(sources[i]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found = self.generate([sources[i] for i in batch], num_beams)
            for i, ids in zip(batch, found, strict=True):
                ids = ids[: ids.index(pad)] if pad in ids else ids
                translations[i] = clean_text(self.tokenizer.decode(ids))
        return translations

    def encode(self, text: str) -> tuple[list[int], bool]:
        """Ids of a sentence, the end included (none without words), and whether it was cut."""
        limit = self.settings["max_source_length"]
        text = clean = clean_text(text)
        if limit is not None:
            text = text[: limit * CHARACTERS_PER_TOKEN]
        ids = self.tokenizer.encode(text).ids
        if not self.has_words(clean, text, ids):
            return [], False
        was_cut = len(text) < len(clean) or (limit is not None and len(ids) > limit)
        if limit is not None and len(ids) > limit:
            ids = [*ids[: limit - 1], ids[-1]] if self.settings["cut_keeps_end"] else ids[:limit]
        return (ids if len(ids) > 1 else []), was_cut

    def has_words(self, text: str, read: str, ids: Sequence[int]) -> bool:
        """Whether a text has a letter that a token stands for, and one outside of code."""
        names = map(self.tokenizer.id_to_token, ids)
        known = [text[len(read) :], *(name for name in names if not NOT_TEXT.fullmatch(name))]
        return any(map(str.isalpha, "".join(known))) and any(map(str.isalpha, CODE.sub("", text)))

    def generate(
        self, sources: Sequence[Sequence[int]], num_beams: int | None = None
    ) -> list[list[int]]:
        """Translate a batch of ids; the results end with the end, unless the limit came first.

        Raises:
            ValueError: the one graph searches with another number of beams.
        """
        if num_beams is None:
            num_beams = self.settings["num_beams"]
        width = self.settings["pad_source_to"] or 0
        pad = self.settings["pad_token_id"]
        if self._whole_search is not None:
            if num_beams != self.settings["num_beams"]:
                known = self.settings["num_beams"]
                raise ValueError(f"{SEARCH} searches with num_beams {known}, not {num_beams}")
            ids, mask = batch_of(sources, width, pad)
            limit = np.array(self.settings["max_new_tokens"])
            inputs = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": limit}
            (found,) = self._whole_search.run(["output_ids"], inputs)
            ends = set(self.settings["eos_token_ids"])
            return [up_to_end(row, ends) for row in found.tolist()]
        search = Search(self._encoder, self._decoder, sources, width, num_beams, pad)
        if num_beams == 1:
            return self._greedy(search, len(sources))
        return self._beams(search, len(sources), num_beams)

    def _greedy(self, search: Search, num_sentences: int) -> list[list[int]]:
        """Take the likeliest token at every step."""
        ends = set(self.settings["eos_token_ids"])
        outputs: list[list[int]] = [[] for _ in range(num_sentences)]
        running = list(range(num_sentences))
        tokens = [self.settings["decoder_start_token_id"]] * num_sentences
        for _ in range(self.settings["max_new_tokens"]):
            chosen = search.logits(tokens).argmax(axis=-1).tolist()
            for sentence, token in zip(running, chosen, strict=True):
                outputs[sentence].append(token)
            kept = [row for row, token in enumerate(chosen) if token not in ends]
            if not kept:
                break
            if len(kept) < len(running):
                search.keep(kept, sentences_left=True)
            running, tokens = [running[row] for row in kept], [chosen[row] for row in kept]
        return outputs

    def _beams(self, search: Search, num_sentences: int, num_beams: int) -> list[list[int]]:
        """Keep the K best beginnings of each sentence, by the rules of transformers' beam search.

        A hypothesis scores its summed log-probability over its length to the power
        `length_penalty`. A sentence is done once no running beam can pass the worst of its K ended
        hypotheses (by the bound that `early_stopping` chooses).
        """
        settings, K = self.settings, num_beams
        eos, penalty = set(settings["eos_token_ids"]), settings["length_penalty"]
        limit, early_stopping = settings["max_new_tokens"], settings["early_stopping"]
        num_candidates = max(2, 1 + len(eos)) * K
        ended: list[list[Hypothesis]] = [[] for _ in range(num_sentences)]
        running = list(range(num_sentences))
        beginnings: list[list[int]] = [[] for _ in range(num_sentences * K)]
        tokens = [settings["decoder_start_token_id"]] * (num_sentences * K)
        # The beams of a sentence begin alike: all but the first are held back for one step.
        scores = np.full((num_sentences, K), NEVER, np.float32)
        scores[:, 0] = 0
        for length in range(1, limit + 1):
            log_probs = log_softmax(search.logits(tokens))
            V = log_probs.shape[-1]
            total = (log_probs.reshape(-1, K, V) + scores[:, :, None]).reshape(-1, K * V)
            index = best(total, min(num_candidates, K * V))
            chosen_scores = np.take_along_axis(total, index, axis=1)
            rows: list[int] = []
            now_running, now_beginnings, now_tokens, now_scores = [], [], [], []
            for i, sentence in enumerate(running):
                going: list[tuple[np.float32, int, int]] = []
                for place, (score, at) in enumerate(zip(chosen_scores[i], index[i], strict=True)):
                    row, word = i * K + int(at) // V, int(at) % V
                    if word not in eos and length < limit:
                        going.append((score, row, word))
                    elif place < K:
                        score = score / np.float32(length**penalty)
                        ended[sentence].append(Hypothesis(score, [*beginnings[row], word]))
                ended[sentence] = sorted(ended[sentence], key=lambda h: -h.score)[:K]
                going = going[:K]
                if not going:
                    continue
                # Can the best running beam still pass the worst ended hypothesis?
                reach = limit if early_stopping == "never" and penalty > 0 else length
                bound = going[0][0] / np.float32(reach**penalty)
                full = len(ended[sentence]) == K
                if full and (early_stopping is True or bound <= ended[sentence][-1].score):
                    continue
                now_running.append(sentence)
                for score, row, word in going:
                    now_scores.append(score)
                    rows.append(row)
                    now_beginnings.append([*beginnings[row], word])
                    now_tokens.append(word)
            if not now_running:
                break
            search.keep(rows, sentences_left=len(now_running) < len(running))
            running, beginnings, tokens = now_running, now_beginnings, now_tokens
            scores = np.array(now_scores, np.float32).reshape(-1, K)
        return [hypotheses[0].ids for hypotheses in ended]


def up_to_end(ids: list[int], ends: set[int]) -> list[int]:
    """Leave out what follows the end token."""
    length = next((i for i, token in enumerate(ids, start=1) if token in ends), len(ids))
    return ids[:length]


def best(x: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest numbers of each row, the largest first; `(B, k)`."""
    unsorted = np.argpartition(-x, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(x, unsorted, axis=1), axis=1, kind="stable")
    return np.take_along_axis(unsorted, order, axis=1)


def main() -> int:
    """Translate standard input, a line in, a line out."""
    parser = argparse.ArgumentParser(description="Translate standard input, line by line.")
    parser.add_argument("folder", help="what bahdanau-hf export has written")
    parser.add_argument("--num_beams", type=int, help="1: greedy; default: the checkpoint's")
    parser.add_argument("--batch_size", type=int, default=32, help="default: 32")
    parser.add_argument("--num_threads", type=int, default=0, help="default: all cores")
    args = parser.parse_args()
    try:
        if args.batch_size < 1 or (args.num_beams is not None and args.num_beams < 1):
            raise ValueError("--num_beams and --batch_size must be at least 1")
        translator = OnnxTranslator(args.folder, args.num_threads)
        content = sys.stdin.buffer.read().decode(errors="replace").removesuffix("\n")
        lines = content.split("\n") if content else []
        translations = translator.translate(lines, args.num_beams, args.batch_size)
        if cut := translator.cut:
            limit = translator.settings["max_source_length"]
            print(
                f"onnx_translate: {len(cut)} of {len(lines)} sentences had more than {limit} "
                f"tokens and lost their end; the first is number {cut[0]}",
                file=sys.stderr,
            )
    except ValueError as error:
        print(f"onnx_translate: error: {error}", file=sys.stderr)
        return 2
    try:
        for text in translations:
            sys.stdout.buffer.write(text.encode() + b"\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())
