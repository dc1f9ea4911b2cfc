"""The architecture of `recipes/rnnsearch.yaml`, equation by equation of Bahdanau et al. 2015.

The transcription below has the paper's letters and its equations alone, in NumPy and float64, one
sentence and one step at a time. Where the model departs from the paper, a test shows for which
weights both say the same, that they do so exactly, and that for other weights they do not.

Dimensions: n hidden, n' attention, m embedding, l maxout units (the paper's letters).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.training.arguments import parse_arguments
from bahdanau_hf.training.setup import SHAPE_FIELDS
from tests.helpers.places import ROOT

RECIPE = ROOT / "bahdanau_hf" / "recipes" / "rnnsearch.yaml"
N, N_ALIGN, M, L, K_X, K_Y = 5, 7, 4, 3, 13, 11
SOURCE, TARGET = [4, 9, 12, 5, 2], [1, 3, 10, 6]  # y_0 is the start token

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


# --- the paper -----------------------------------------------------------------------------------


@dataclass
class Gated:
    """A gated unit: matrices for the word (W), the state (U) and, in the decoder, the context (C).

    The biases are not the paper's, which says that it leaves them out to be readable.
    """

    W: Array
    U: Array
    C: Array
    W_z: Array
    U_z: Array
    C_z: Array
    W_r: Array
    U_r: Array
    C_r: Array
    b: Array
    b_z: Array
    b_r: Array
    b_U: Array  # PyTorch's second bias of the new state, beside U

    def step(self, word: Array, s: Array, c: Array, *, reset_after: bool) -> Array:
        """A.1.1, and A.2.1 with C = 0: s_i = (1 - z_i) ∘ s_{i-1} + z_i ∘ s̃_i.

        `reset_after`: r ∘ (U s) as in PyTorch, where the paper has U [r ∘ s].
        """
        z = sigmoid(self.W_z @ word + self.U_z @ s + self.C_z @ c + self.b_z)
        r = sigmoid(self.W_r @ word + self.U_r @ s + self.C_r @ c + self.b_r)
        recurrent = r * (self.U @ s + self.b_U) if reset_after else self.U @ (r * s) + self.b_U
        proposed = np.tanh(self.W @ word + recurrent + self.C @ c + self.b)
        return (1 - z) * s + z * proposed


@dataclass
class Paper:
    """The whole model, appendix A.2."""

    E_x: Array
    E_y: Array
    forward: Gated
    backward: Gated
    decoder: Gated
    W_s: Array
    b_s: Array
    W_a: Array
    U_a: Array
    v_a: Array
    U_o: Array
    V_o: Array
    C_o: Array
    b_t: Array
    W_o: Array
    b_o: Array
    reset_after: bool = False
    output_reads_previous_state: bool = False

    def annotations(self, words: list[int]) -> Array:
        """A.2.1 and equation 7: h_j, the forward state over the backward one."""
        rows = [self.E_x[word] for word in words]
        none = np.zeros(self.forward.C.shape[1])
        there, back = [np.zeros(N)], [np.zeros(N)]
        for x in rows:
            there.append(self.forward.step(x, there[-1], none, reset_after=self.reset_after))
        for x in reversed(rows):
            back.append(self.backward.step(x, back[-1], none, reset_after=self.reset_after))
        return np.array([[*a, *b] for a, b in zip(there[1:], back[:0:-1], strict=True)])

    def start(self, h: Array) -> Array:
        """A.2.2: s_0 = tanh(W_s ←h_1)."""
        return np.tanh(self.W_s @ h[0, N:] + self.b_s)

    def energies(self, s: Array, h: Array) -> Array:
        """A.1.2: e_ij = v_aᵀ tanh(W_a s_{i-1} + U_a h_j)."""
        return np.array([self.v_a @ np.tanh(self.W_a @ s + self.U_a @ row) for row in h])

    def run(self, source: list[int], target: list[int]) -> tuple[Array, Array, Array]:
        """States s_i, weights α_ij and log p(y_i | ...) for y_{i-1} in `target`."""
        h = self.annotations(source)
        s = self.start(h)
        states, weights, outputs = [], [], []
        for word in target:
            y, previous = self.E_y[word], s
            e = self.energies(s, h)
            alpha = np.exp(e) / np.exp(e).sum()  # equation 6
            c = (alpha[:, None] * h).sum(axis=0)  # equation 5
            s = self.decoder.step(y, s, c, reset_after=self.reset_after)
            read = previous if self.output_reads_previous_state else s
            t_wide = self.U_o @ read + self.V_o @ y + self.C_o @ c + self.b_t
            t = np.array([max(t_wide[2 * j], t_wide[2 * j + 1]) for j in range(L)])
            scores = self.W_o @ t + self.b_o
            states.append(s)
            weights.append(alpha)
            outputs.append(scores - np.log(np.exp(scores).sum()))
        return np.array(states), np.array(weights), np.array(outputs)


# --- the model, and its weights under the paper's letters ----------------------------------------


def recipe_config(**sizes: int) -> BahdanauConfig:
    """The recipe's architecture, with other sizes."""
    arguments, _, _ = parse_arguments([str(RECIPE)])
    shape = {name: getattr(arguments, name) for name in SHAPE_FIELDS}
    return BahdanauConfig(**{**shape, **sizes})


@pytest.fixture
def model() -> BahdanauForConditionalGeneration:
    config = recipe_config(
        vocab_size=K_Y, encoder_vocab_size=K_X, embedding_size=M, hidden_size=N,
        attention_hidden_size=N_ALIGN, readout_size=L,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BahdanauForConditionalGeneration(config).double().eval()
        for parameter in model.parameters():  # all of them, biases too, of a size that shows
            parameter.data.normal_(std=0.6)
    return model


def gated(weights: dict[str, Array], prefix: str, suffix: str, context_size: int) -> Gated:
    """Gates stand one below the other, reset, update, new; the context before the word."""
    ih, hh = (weights[f"{prefix}.weight_{kind}{suffix}"] for kind in ("ih", "hh"))
    b_ih, b_hh = (weights[f"{prefix}.bias_{kind}{suffix}"] for kind in ("ih", "hh"))
    r, z, new = (slice(i * N, (i + 1) * N) for i in range(3))
    C, W = ih[:, :context_size], ih[:, context_size:]
    # PyTorch's update gate says what stays: it is one minus the paper's, and σ(-x) = 1 - σ(x).
    return Gated(
        W=W[new], U=hh[new], C=C[new], b=b_ih[new], b_U=b_hh[new],
        W_z=-W[z], U_z=-hh[z], C_z=-C[z], b_z=-(b_ih + b_hh)[z],
        W_r=W[r], U_r=hh[r], C_r=C[r], b_r=(b_ih + b_hh)[r],
    )  # fmt: skip


def transcribe(model: BahdanauForConditionalGeneration) -> Paper:
    """The model's weights in the paper's places; of the bridge only what reads ←h_1."""
    w = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    encoder, decoder = "model.encoder", "model.decoder"
    maxout = w[f"{decoder}.readout.projection.weight"]
    return Paper(
        E_x=w[f"{encoder}.embed_tokens.weight"],
        E_y=w[f"{decoder}.embed_tokens.weight"],
        forward=gated(w, f"{encoder}.forward_layers.0", "_l0", 0),
        backward=gated(w, f"{encoder}.backward_layers.0", "_l0", 0),
        decoder=gated(w, f"{decoder}.layers.0", "", 2 * N),
        W_s=w[f"{decoder}.bridge.0.weight"][:, N:],
        b_s=w[f"{decoder}.bridge.0.bias"],
        W_a=w[f"{decoder}.attention.query.weight"],
        U_a=w[f"{decoder}.attention.key.weight"],
        v_a=w[f"{decoder}.attention.score.weight"][0],
        U_o=maxout[:, :N],
        C_o=maxout[:, N : 3 * N],
        V_o=maxout[:, 3 * N :],
        b_t=w[f"{decoder}.readout.projection.bias"],
        W_o=w["lm_head.weight"],
        b_o=w["lm_head.bias"],
    )


def make_papers(model: BahdanauForConditionalGeneration) -> None:
    """Give the model weights for which every departure disappears."""
    encoder, decoder = model.model.encoder, model.model.decoder
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.data.zero_()
    for layer in (encoder.forward_layers[0], encoder.backward_layers[0]):
        make_diagonal(layer.weight_hh_l0)
    make_diagonal(decoder.layers[0].weight_hh)
    decoder.bridge[0].weight.data[:, :N] = 0  # →h_T is not looked at


def make_diagonal(weight: torch.nn.Parameter) -> None:
    """A diagonal U commutes with the reset gate: U [r ∘ s] = r ∘ (U s)."""
    weight.data[2 * N :] = torch.diag(weight.data[2 * N :].diagonal())


def outputs_of(model: BahdanauForConditionalGeneration) -> tuple[Array, Array, Array, Array]:
    """Annotations, states, attention weights and log-probabilities."""
    with torch.no_grad():
        source, target = torch.tensor([SOURCE]), torch.tensor([TARGET])
        encoded = model.model.encoder(source)
        memory = model.model.decoder.read(encoded.last_hidden_state, encoded.final_state, None)
        states = []
        cache = None
        for word in target[0]:
            step = model.model.decoder(
                word.view(1, 1),
                encoder_hidden_states=encoded.last_hidden_state,
                encoder_final_state=encoded.final_state,
                past_key_values=cache,
                use_cache=True,
            )
            cache = step.past_key_values
            states.append(cache.state[0, 0].numpy())
        out = model(source, decoder_input_ids=target, output_attentions=True, use_cache=False)
        assert torch.equal(memory.annotations, encoded.last_hidden_state)
    return (
        encoded.last_hidden_state[0].numpy(),
        np.array(states),
        out.cross_attentions[0][0, 0].numpy(),
        out.logits[0].log_softmax(-1).numpy(),
    )


def assert_same(actual: Array, expected: Array) -> None:
    # The recurrence is in float64 here; only the order of sums differs.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def differ(actual: Array, expected: Array) -> bool:
    return bool(np.abs(actual - expected).max() > 1e-3)


# --- equation by equation ------------------------------------------------------------------------


def test_with_the_papers_weights_everything_is_the_papers(model) -> None:
    """A.1, A.2 and equations 4 to 7 as printed, but for the state that the output reads."""
    make_papers(model)
    paper = transcribe(model)
    annotations, states, weights, log_probabilities = outputs_of(model)
    assert_same(annotations, paper.annotations(SOURCE))
    for actual, expected in zip(
        (states, weights, log_probabilities), paper.run(SOURCE, TARGET), strict=True
    ):
        assert_same(actual, expected)


def test_encoder_a_2_1(model) -> None:
    """→h and ←h of one embedding, each with weights of its own, side by side (equation 7)."""
    paper = transcribe(model)
    annotations = outputs_of(model)[0]
    assert differ(annotations, paper.annotations(SOURCE))  # U [r ∘ s]
    paper.reset_after = True
    assert_same(annotations, paper.annotations(SOURCE))  # r ∘ (U s)
    # ←h_1 has read the whole sentence, →h_1 its first word alone.
    shorter = paper.annotations(SOURCE[:1])
    assert_same(annotations[0, :N], shorter[0, :N])
    assert differ(annotations[0, N:], shorter[0, N:])


def test_decoder_state_a_1_1_and_a_2_2(model) -> None:
    """s_i of y_{i-1}, s_{i-1} and c_i, from weights that both know."""
    model.model.decoder.bridge[0].weight.data[:, :N] = 0
    paper = transcribe(model)
    states = outputs_of(model)[1]
    assert differ(states, paper.run(SOURCE, TARGET)[0])
    paper.reset_after = True
    assert_same(states, paper.run(SOURCE, TARGET)[0])


def test_update_gate_is_one_minus_the_papers(model) -> None:
    """A gate driven to 1 takes the new state in the paper and keeps the old one in PyTorch."""
    cell, paper = model.model.decoder.layers[0], transcribe(model).decoder
    cell.bias_ih.data[N : 2 * N] = 40.0
    word, s, c = np.ones(M), np.linspace(-0.5, 0.5, N), np.ones(2 * N)
    x = torch.tensor(np.concatenate([c, word]))[None]
    with torch.no_grad():
        kept = cell(x, torch.tensor(s)[None])[0].numpy()
    assert_same(kept, s)
    paper.b_z = np.full(N, 40.0)
    taken = paper.step(word, s, c, reset_after=True)
    assert differ(taken, s)
    paper.b_z = np.full(N, -40.0)
    assert_same(paper.step(word, s, c, reset_after=True), s)


def test_start_state_a_2_2(model) -> None:
    """s_0 = tanh(W_s ←h_1); ours may look at →h_T too, and has a bias."""
    decoder, paper = model.model.decoder, transcribe(model)
    paper.reset_after = True
    with torch.no_grad():
        encoded = model.model.encoder(torch.tensor([SOURCE]))
        ours = decoder.start_state(encoded.final_state)[0, 0].numpy()
    h = paper.annotations(SOURCE)
    final = np.concatenate([h[-1, :N], h[0, N:]])  # →h_T and ←h_1
    assert_same(encoded.final_state[0, 0].numpy(), final)
    weight = decoder.bridge[0].weight.detach().numpy()
    assert_same(ours, np.tanh(weight @ final + paper.b_s))
    assert differ(ours, paper.start(h))
    decoder.bridge[0].weight.data[:, :N] = 0
    with torch.no_grad():
        assert_same(decoder.start_state(encoded.final_state)[0, 0].numpy(), paper.start(h))


def test_alignment_model_a_1_2(model) -> None:
    """e_ij looks at s_{i-1}, has no bias, and U_a h_j is the same at every step."""
    decoder, paper = model.model.decoder, transcribe(model)
    assert paper.W_a.shape == (N_ALIGN, N)
    assert paper.U_a.shape == (N_ALIGN, 2 * N)
    assert paper.v_a.shape == (N_ALIGN,)
    assert [name for name, _ in decoder.attention.named_parameters() if "bias" in name] == []
    annotations, states, weights, _ = outputs_of(model)
    with torch.no_grad():
        final = model.model.encoder(torch.tensor([SOURCE])).final_state
        start = decoder.start_state(final)[0, 0].numpy()
        keys = decoder.read(torch.tensor(annotations)[None], final, None).keys
    assert_same(keys[0].numpy(), annotations @ paper.U_a.T)
    for i, previous in enumerate([start, *states[:-1]]):
        e = paper.energies(previous, annotations)
        assert_same(weights[i], np.exp(e) / np.exp(e).sum())
        assert differ(weights[i], weights[i - 1])
    # The word before is not looked at: only s_{i-1} is, which does not know y_{i-1} yet.
    with torch.no_grad():
        other = model(
            torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([[*TARGET[:-1], 7]]),
            output_attentions=True,
        )  # fmt: skip
    assert_same(other.cross_attentions[0][0, 0].numpy(), weights)


def test_context_equation_5(model) -> None:
    """c_i is the sum of the annotations by their weights: equal annotations leave no choice."""
    make_papers(model)
    paper = transcribe(model)
    h = outputs_of(model)[0]
    seen: list[Array] = []
    model.model.decoder.readout.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[1][0].detach().numpy())
    )
    weights = outputs_of(model)[2]
    assert_same(seen[-1], np.array([sum(a * row for a, row in zip(alpha, h, strict=True))
                                    for alpha in weights]))  # fmt: skip
    assert paper.C_o.shape == (2 * L, 2 * N)


def test_deep_output_a_2_2(model) -> None:
    """t_i: the larger of each two neighbours; W_o over it. Read is s_i, not the printed s_{i-1}."""
    make_papers(model)
    paper = transcribe(model)
    assert (paper.U_o.shape, paper.V_o.shape) == ((2 * L, N), (2 * L, M))
    assert paper.W_o.shape == (K_Y, L)
    log_probabilities = outputs_of(model)[3]
    assert_same(log_probabilities, paper.run(SOURCE, TARGET)[2])
    paper.output_reads_previous_state = True
    assert differ(log_probabilities, paper.run(SOURCE, TARGET)[2])


def test_biases_are_the_only_other_departure(model) -> None:
    """All biases at once, in both: gates, start state, maxout layer and output layer."""
    model.model.decoder.bridge[0].weight.data[:, :N] = 0
    paper = transcribe(model)
    paper.reset_after = True
    log_probabilities = outputs_of(model)[3]
    assert_same(log_probabilities, paper.run(SOURCE, TARGET)[2])
    paper.b_o, paper.b_t = np.zeros(K_Y), np.zeros(2 * L)
    assert differ(log_probabilities, paper.run(SOURCE, TARGET)[2])


def test_sizes_a_2_3() -> None:
    """N = n' = 1,000, m = 620, l = 500 and 30,000 words, in the recipe and in its matrices."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    assert recipe["vocab_size"] == 30_000
    with torch.device("meta"):
        model = BahdanauForConditionalGeneration(recipe_config(vocab_size=30_000))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    n, m, maxout = 1000, 620, 500
    expected = {
        "model.encoder.embed_tokens.weight": (30_000, m),
        "model.encoder.forward_layers.0.weight_ih_l0": (3 * n, m),
        "model.encoder.backward_layers.0.weight_hh_l0": (3 * n, n),
        "model.decoder.embed_tokens.weight": (30_000, m),
        "model.decoder.layers.0.weight_ih": (3 * n, 2 * n + m),
        "model.decoder.layers.0.weight_hh": (3 * n, n),
        "model.decoder.attention.query.weight": (n, n),
        "model.decoder.attention.key.weight": (n, 2 * n),
        "model.decoder.attention.score.weight": (1, n),
        "model.decoder.readout.projection.weight": (2 * maxout, n + 2 * n + m),
        "lm_head.weight": (30_000, maxout),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_initial_weights_b_1() -> None:
    """Recurrent matrices orthogonal, biases 0; the attention starts wider than the paper's."""
    sizes = {"vocab_size": 40, "hidden_size": 24, "attention_hidden_size": 20, "embedding_size": 30}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BahdanauForConditionalGeneration(recipe_config(**sizes, readout_size=9))
    weights = dict(model.named_parameters())
    for name, tensor in weights.items():
        if "weight_hh" in name:
            for gate in tensor.detach().chunk(3):
                torch.testing.assert_close(gate @ gate.T, torch.eye(24), atol=1e-5, rtol=0)
        elif "bias" in name:
            assert tensor.abs().max() == 0
        elif "embed_tokens" in name:
            assert float(tensor.detach().std()) == pytest.approx(0.01, rel=0.1)
    # The documented departure: the paper draws W_a and U_a from N(0, 0.001²) and sets v_a to 0.
    query = weights["model.decoder.attention.query.weight"].detach()
    assert float(query.std()) == pytest.approx((2 / (24 + 20)) ** 0.5, rel=0.1)
    assert weights["model.decoder.attention.score.weight"].abs().max() > 0
