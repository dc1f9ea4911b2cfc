"""The tutorial's model once more, from its equations: one sentence, one step, one layer at a time.

Everything is float64. Nothing is imported from the package. `weights` is a state dictionary with
the tutorial's names; ids are places in its two lists of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SOURCE_TOKENS = [
    *("<unk>", "<pad>", "<bos>", "<eos>"),  # as the tutorial's vocabulary begins
    *(".", "i", "you", "?", "'m", "we", "call", "us", "!", "it's", "tom", "go", "him", ","),
    "10:30",
]
TARGET_TOKENS = [
    *("。", "我", "<eos>", "你", "们", "<unk>", "？", "联", "系", "<bos>", "跑", "."),
    *("<pad>", "他", "T", "！", "，", "汤", " ", "姆", "走"),
]


class Read(NamedTuple):
    """What the decoder knows of a sentence."""

    annotations: Tensor  # (S, H)
    valid: int  # so many places from the left may be looked at
    states: list[Tensor]  # of each layer, after the padding too


class Step(NamedTuple):
    states: list[Tensor]
    alpha: Tensor  # (S,)
    logits: Tensor  # (V,)


class Greedy(NamedTuple):
    tokens: list[str]  # without the end
    logits: Tensor  # (T, V)
    alphas: Tensor  # (T, S)


def random_weights(
    source_size: int = len(SOURCE_TOKENS),
    target_size: int = len(TARGET_TOKENS),
    *,
    embedding: int = 6,
    hidden: int = 7,
    layers: int = 2,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Float32 weights of the tutorial's names, large enough that words and places matter."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights = {"encoder.embedding.weight": draw(source_size, embedding)}
    for side, first in (("encoder", embedding), ("decoder", embedding + hidden)):
        for i in range(layers):
            width = first if i == 0 else hidden
            weights[f"{side}.rnn.weight_ih_l{i}"] = 0.6 * draw(3 * hidden, width)
            weights[f"{side}.rnn.weight_hh_l{i}"] = 0.6 * draw(3 * hidden, hidden)
            weights[f"{side}.rnn.bias_ih_l{i}"] = draw(3 * hidden)
            weights[f"{side}.rnn.bias_hh_l{i}"] = draw(3 * hidden)
    return {
        **weights,
        "decoder.attention.W_k.weight": draw(hidden, hidden),
        "decoder.attention.W_q.weight": draw(hidden, hidden),
        "decoder.attention.w_v.weight": 2 * draw(1, hidden),
        "decoder.embedding.weight": draw(target_size, embedding),
        "decoder.dense.weight": 2 * draw(target_size, hidden),
        "decoder.dense.bias": draw(target_size),
    }


def sensible_weights() -> dict[str, Tensor]:
    """Weights that say something else of most sentences, end now and then, and say no marks."""
    weights = random_weights(seed=8)
    bias = weights["decoder.dense.bias"]
    bias[TARGET_TOKENS.index("<eos>")] += 5.0
    for token in ("<pad>", "<bos>"):  # what the tutorial's training never lets a model say
        bias[TARGET_TOKENS.index(token)] = -50.0
    return weights


def write_files(
    folder: Path,
    weights: dict[str, torch.Tensor],
    source: list[str] = SOURCE_TOKENS,
    target: list[str] = TARGET_TOKENS,
) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "state_dict": folder / "model_h.pt",
        "source_vocab": folder / "source.txt",
        "target_vocab": folder / "target.txt",
    }
    torch.save(weights, files["state_dict"])
    files["source_vocab"].write_text("".join(f"{t}\n" for t in source), encoding="utf-8")
    files["target_vocab"].write_text("".join(f"{t}\n" for t in target), encoding="utf-8")
    return files


def split_words(sentence: str, *, marks: str = ",.!?") -> list[str]:
    """The source's tokens: lower case, a space before each mark that has none, cut at spaces."""
    text = sentence.replace("\u202f", " ").replace("\xa0", " ").lower()
    spaced = ""
    for i, char in enumerate(text):
        if char in marks and i > 0 and text[i - 1] != " ":
            spaced += " "
        spaced += char
    return [word for word in spaced.split(" ") if word]


class TutorialOracle:
    """Translates greedily, as the tutorial does."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        source_tokens: Sequence[str] = SOURCE_TOKENS,
        target_tokens: Sequence[str] = TARGET_TOKENS,
        num_steps: int = 10,
    ):
        self.weights = {name: tensor.double() for name, tensor in weights.items()}
        self.source_tokens, self.target_tokens = list(source_tokens), list(target_tokens)
        self.num_steps = num_steps
        self.num_layers = sum(name.startswith("encoder.rnn.weight_ih") for name in weights)

    def source_ids(self, words: Sequence[str]) -> tuple[list[int], int]:
        """Ids, padded or cut to `num_steps`, and the length before that, the end included."""
        place = self.source_tokens.index
        ids = [place(w) if w in self.source_tokens else place("<unk>") for w in [*words, "<eos>"]]
        padding = [place("<pad>")] * (self.num_steps - len(ids))
        return (ids + padding)[: self.num_steps], len(ids)

    def _gru(self, side: str, layer: int, x: Tensor, h: Tensor) -> Tensor:
        """r, z = sigmoid(...), n = tanh(W x + b + r (U h + c)), new h = (1 - z) n + z h."""
        W, U, b, c = (
            self.weights[f"{side}.rnn.{name}_l{layer}"]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        from_x, from_h = W @ x + b, U @ h + c
        size = len(h)
        r = 1 / (1 + torch.exp(-(from_x[:size] + from_h[:size])))
        z = 1 / (1 + torch.exp(-(from_x[size : 2 * size] + from_h[size : 2 * size])))
        n = torch.tanh(from_x[2 * size :] + r * from_h[2 * size :])
        return (1 - z) * n + z * h

    def read(self, ids: Sequence[int], valid: int) -> Read:
        """Run over all ids, padding too; layer by layer."""
        inputs = [self.weights["encoder.embedding.weight"][i] for i in ids]
        states = []
        for layer in range(self.num_layers):
            h = torch.zeros(self.weights["encoder.rnn.weight_hh_l0"].shape[1]).double()
            outputs = []
            for x in inputs:
                h = self._gru("encoder", layer, x, h)
                outputs.append(h)
            inputs = outputs
            states.append(h)
        return Read(torch.stack(inputs), valid, states)

    def step(self, source: Read, states: list[Tensor], word: int) -> Step:
        """Look with the top state, then let the layers read context and word."""
        query = self.weights["decoder.attention.W_q.weight"] @ states[-1]
        v = self.weights["decoder.attention.w_v.weight"][0]
        powers = []
        for j, annotation in enumerate(source.annotations):
            key = self.weights["decoder.attention.W_k.weight"] @ annotation
            score = v @ torch.tanh(query + key)
            powers.append(torch.exp(score) if j < source.valid else torch.zeros(()).double())
        alpha = torch.stack(powers) / sum(powers)
        context = sum(a * h for a, h in zip(alpha, source.annotations, strict=True))
        x = torch.cat([context, self.weights["decoder.embedding.weight"][word]])
        new_states = []
        for layer, h in enumerate(states):
            x = self._gru("decoder", layer, x, h)
            new_states.append(x)
        logits = self.weights["decoder.dense.weight"] @ x + self.weights["decoder.dense.bias"]
        return Step(new_states, alpha, logits)

    def run(self, words: Sequence[str], target: Sequence[int]) -> list[Step]:
        """Read a source and be told every target word, the first being the start."""
        source = self.read(*self.source_ids(words))
        steps: list[Step] = []
        for word in target:
            steps.append(self.step(source, steps[-1].states if steps else source.states, word))
        return steps

    def greedy(self, words: Sequence[str]) -> Greedy:
        """Take the likeliest word, `num_steps` times or until the end."""
        source = self.read(*self.source_ids(words))
        states, word = source.states, self.target_tokens.index("<bos>")
        tokens, logits, alphas = [], [], []
        for _ in range(self.num_steps):
            step = self.step(source, states, word)
            states, word = step.states, int(step.logits.argmax())
            logits.append(step.logits)
            alphas.append(step.alpha)
            if self.target_tokens[word] == "<eos>":
                break
            tokens.append(self.target_tokens[word])
        return Greedy(tokens, torch.stack(logits), torch.stack(alphas))
