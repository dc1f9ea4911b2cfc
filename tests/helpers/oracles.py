"""What the model must compute, once more and as plainly as possible.

Numbers are Python floats (float64) in lists, one sentence at a time, one loop for each sum; nothing
is imported from the package. The equations were written down from Cho et al. 2014 and Bahdanau et
al. 2015 (appendix A), with the departures that the model's documentation names.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Vector = list[float]
Matrix = list[Vector]


def add(*vectors: Vector) -> Vector:
    return [math.fsum(numbers) for numbers in zip(*vectors, strict=True)]


def multiply(a: Vector, b: Vector) -> Vector:
    return [x * y for x, y in zip(a, b, strict=True)]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def apply(matrix: Matrix, vector: Vector) -> Vector:
    return [dot(row, vector) for row in matrix]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softmax(scores: Vector) -> Vector:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def log_softmax(scores: Vector) -> Vector:
    largest = max(scores)
    total = math.log(math.fsum(math.exp(score - largest) for score in scores))
    return [score - largest - total for score in scores]


class Source(NamedTuple):
    """What the decoder knows of a sentence."""

    annotations: Matrix
    visible: list[bool]  # where the attention may look
    start: Matrix  # the decoder's states before the first word, from the bottom up


class Step(NamedTuple):
    """What one word does."""

    states: Matrix
    alpha: Vector | None
    output: Vector  # what the output layer reads
    logits: Vector


class ScalarModel:
    """A whole translation model in scalar arithmetic; reads its weights by their names."""

    def __init__(self, model: Any):
        self.config = model.config
        self.weights: dict[str, Any] = {
            name: tensor.double().tolist() for name, tensor in model.state_dict().items()
        }

    def _linear(self, name: str, x: Vector) -> Vector:
        result = apply(self.weights[f"{name}.weight"], x)
        bias = self.weights.get(f"{name}.bias")
        return result if bias is None else add(result, bias)

    def _gru(self, name: str, suffix: str, x: Vector, s: Vector) -> Vector:
        """One step of a GRU; reset, update and new gate stand one below the other."""
        w = {key: self.weights[f"{name}.{key}{suffix}"] for key in
             ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
        from_x = add(apply(w["weight_ih"], x), w["bias_ih"])
        from_s = add(apply(w["weight_hh"], s), w["bias_hh"])
        H = len(s)
        result = []
        for j in range(H):
            r = sigmoid(from_x[j] + from_s[j])
            z = sigmoid(from_x[H + j] + from_s[H + j])
            n = math.tanh(from_x[2 * H + j] + r * from_s[2 * H + j])
            result.append((1 - z) * n + z * s[j])
        return result

    def encode(self, words: Sequence[int], visible: Sequence[bool] | None = None) -> Source:
        """Read a sentence; padding that the encoder is to read is among the words, invisible."""
        table = self.weights["model.encoder.embed_tokens.weight"]
        hidden = [list(table[word]) for word in words]
        ways = ["forward"] + ["backward"] * self.config.bidirectional_encoder
        finals = []
        for i in range(self.config.encoder_layers):
            outputs, final = [], []
            for way in ways:
                s: Vector = [0.0] * self.config.hidden_size
                states = []
                for x in hidden if way == "forward" else reversed(hidden):
                    s = self._gru(f"model.encoder.{way}_layers.{i}", "_l0", x, s)
                    states.append(s)
                outputs.append(states if way == "forward" else states[::-1])
                final += s
            hidden = [list(itertools.chain(*parts)) for parts in zip(*outputs, strict=True)]
            finals.append(final)
        start = finals
        if self.config.bidirectional_encoder:
            # Tops meet; a layer that has no counterpart takes the nearest one.
            start = []
            for i in range(self.config.decoder_layers):
                j = i + self.config.encoder_layers - self.config.decoder_layers
                final = finals[min(max(j, 0), self.config.encoder_layers - 1)]
                start.append(
                    [math.tanh(x) for x in self._linear(f"model.decoder.bridge.{i}", final)]
                )
        if not self.config.use_attention:
            return Source([finals[-1]], [True], start)
        return Source(hidden, list(visible) if visible else [True] * len(hidden), start)

    def step(
        self,
        source: Source,
        states: Matrix,
        word: int,
        alpha_factors: Vector | None = None,
        layer_factors: Matrix | None = None,
    ) -> Step:
        """Take one word of the target, the decoder being in `states`.

        The factors are those of dropout: on the attention weights, and on the output of each layer
        but the last.
        """
        embedding = self.weights["model.decoder.embed_tokens.weight"][word]
        alpha = None
        context = source.annotations[0]
        if self.config.conditional_gru:
            states = [self._gru("model.decoder.transition", "", embedding, states[0])]
        if self.config.use_attention:
            query = self._linear("model.decoder.attention.query", states[-1])
            scores = []
            for annotation, visible in zip(source.annotations, source.visible, strict=True):
                key = self._linear("model.decoder.attention.key", annotation)
                features = [math.tanh(x) for x in add(query, key)]
                score = dot(self.weights["model.decoder.attention.score.weight"][0], features)
                scores.append(score if visible else -math.inf)
            alpha = softmax(scores)
            used = alpha if alpha_factors is None else multiply(alpha, alpha_factors)
            columns = zip(*source.annotations, strict=True)
            context = [dot(used, list(column)) for column in columns]
        x = context if self.config.conditional_gru else context + embedding
        new_states: Matrix = []
        for i, s in enumerate(states):
            new_states.append(self._gru(f"model.decoder.layers.{i}", "", x, s))
            x = new_states[-1]
            if layer_factors is not None and i + 1 < len(states):
                x = multiply(x, layer_factors[i])
        output = new_states[-1]
        if self.config.readout == "deep":
            pieces = self._linear("model.decoder.readout.projection", output + context + embedding)
            output = [max(pieces[k : k + 2]) for k in range(0, len(pieces), 2)]
        return Step(new_states, alpha, output, self._linear("lm_head", output))

    def run(self, source: Source, words: Iterable[int]) -> list[Step]:
        """Take one word after the other from the start."""
        steps: list[Step] = []
        for word in words:
            steps.append(self.step(source, steps[-1].states if steps else source.start, word))
        return steps

    def loss(self, source: Source, labels: Sequence[int], smoothing: float = 0.0) -> float:
        """The cross-entropy of a whole sentence, summed over its words."""
        words = [self.config.decoder_start_token_id, *labels[:-1]]
        total = 0.0
        for step, label in zip(self.run(source, words), labels, strict=True):
            log_probs = log_softmax(step.logits)
            total -= (1 - smoothing) * log_probs[label]
            total -= smoothing * math.fsum(log_probs) / len(log_probs)
        return total

    def greedy(self, source: Source, max_new_tokens: int) -> list[int]:
        """The likeliest word at every step, until the end token (which is part of it)."""
        words = [self.config.decoder_start_token_id]
        states = source.start
        while len(words) <= max_new_tokens:
            step = self.step(source, states, words[-1])
            states = step.states
            words.append(max(range(len(step.logits)), key=step.logits.__getitem__))
            if words[-1] == self.config.eos_token_id:
                break
        return words

    def all_translations(
        self, source: Source, max_new_tokens: int, length_penalty: float
    ) -> list[tuple[float, list[int]]]:
        """Every output that there is, best first: ended ones, and those cut at the full length.

        The score is the summed log-probability over the length (without the start token) to the
        power of the penalty.
        """
        found = []
        beginnings = [(0.0, [self.config.decoder_start_token_id], source.start)]
        for length in range(1, max_new_tokens + 1):
            longer = []
            for total, words, states in beginnings:
                step = self.step(source, states, words[-1])
                for word, log_prob in enumerate(log_softmax(step.logits)):
                    new = (total + log_prob, [*words, word], step.states)
                    if word == self.config.eos_token_id or length == max_new_tokens:
                        found.append((new[0] / length**length_penalty, new[1]))
                    else:
                        longer.append(new)
            beginnings = longer
        return sorted(found, key=lambda pair: -pair[0])
