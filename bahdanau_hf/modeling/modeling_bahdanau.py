"""The model: encoder, additive attention, decoder, output layer, and what a decoding step keeps.

Read it from top to bottom beside the paper (Bahdanau et al. 2015): each equation stands once, in
the `forward` of its module. That is the plain path, right everywhere: under hooks, adapters,
parametrisations, quantisers, tracing and export. A fast way computes the same from the modules'
weights (`recurrence_bahdanau`, `generation_bahdanau`, the loss of `matmul_bahdanau`); it is taken
only where all modules that it passes by are exactly as built, and `chosen_implementation` says why.

Dimensions: B batch, S source, T target, E embedding, H hidden, A attention, C annotation (H, or 2H
with two directions), L decoder layers, V target vocabulary. The paper's letters: y a target word's
embedding `(B, E)`, h annotations `(B, S, C)`, s a decoder state `(B, H)`, e scores before the
softmax `(B, S)`, alpha attention weights `(B, S)`, c the context `(B, C)`.

Departures from the paper (its sections in brackets):

- GRUs are PyTorch's: the reset gate acts on `U s` (and a bias of its own) instead of `s`, and the
  update gate is one minus the paper's (A.1.1, A.2.1, A.2.2).
- Any number of layers; with two directions every decoder layer's start state is a tanh layer over
  both directions' final states, where the paper takes the backward one (A.2.2).
- Biases stand throughout, which the paper leaves out, but not in the attention (A.1.2).
- Initial values are those of `_init_weights`; the paper draws matrices from N(0, 0.01²), those of
  the attention from N(0, 0.001²), and starts v_a at 0 (B.1).
- `conditional_gru` lets the decoder read the previous word before the attention is computed (class
  `BahdanauDecoder`); the paper's attention does not see that word.
- `readout="deep"` reads the new state s_i, as p(y_i | s_i, y_{i-1}, c_i) has it, where the paper's
  formula of the maxout layer prints s_{i-1} (A.2.2); `"linear"` the top layer's state alone.
"""

# No `from __future__ import annotations`: the library reads `config: BahdanauConfig` as a type.
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.generation import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions as DecoderOutput
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils import can_return_tuple, logging

from .configuration_bahdanau import BahdanauConfig
from .generation_bahdanau import (
    RULES,
    Search,
    asks_for_tokens_only,
    beam_search,
    greedy_search,
    plain_rules,
    read_whole_vocabulary,
)
from .matmul_bahdanau import linear, linear_cross_entropy
from .processor_bahdanau import processor
from .recurrence_bahdanau import Inputs, recur, run_grus

if TYPE_CHECKING:  # what is named here is saved with a model
    from .pipeline_bahdanau import BahdanauTranslationPipeline  # noqa: F401

logger = logging.get_logger(__name__)

IGNORED_LABEL = -100
HOLD = 1e4  # added to an update gate before its sigmoid, which is then exactly 1: the state stays
# By which name the library's search hands a cache on: transformers 5.24 has renamed it.
CACHE = next(f.name for f in fields(Seq2SeqLMOutput) if f.name in ("cache", "past_key_values"))


# --- how it is computed --------------------------------------------------------------------------


class FastWay(NamedTuple):
    """Functions that compute what the modules do, from their weights."""

    recur: Callable = recur
    run_grus: Callable = run_grus
    cross_entropy: Callable = linear_cross_entropy
    greedy_search: Callable = greedy_search
    beam_search: Callable = beam_search


# A package may add ways that do not travel; one named as a type of device is the default there.
FAST_WAYS = {"fast": FastWay()}


class Implementation(NamedTuple):
    """How a call is computed, and why."""

    name: str  # as `set_implementation` takes it
    reason: str


def implementations() -> tuple[str, ...]:
    """What `set_implementation` takes here."""
    return ("reference", *FAST_WAYS)


def default_implementation(device: str = "cpu") -> str:
    """What `BAHDANAU_IMPLEMENTATION` says, or else the way named as the device, or `"fast"`."""
    wish = os.environ.get("BAHDANAU_IMPLEMENTATION") or (device if device in FAST_WAYS else "fast")
    if wish in (names := implementations()):
        return wish
    logger.warning_once(
        f"BAHDANAU_IMPLEMENTATION is {wish!r}, none of {', '.join(names)}: it is not followed."
    )
    return "fast"


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def find_obstacle(root: nn.Module) -> str | None:
    """Say what a fast way would pass by in silence; `None` if everything is as built.

    That is modules of other types (adapters, quantisers, parametrisations), hooks, replaced
    `forward` functions, parameters that are no plain ones or lie on several devices, and tracing.
    """
    modes, everywhere = torch._C._TorchDispatchModeKey, torch.nn.modules.module
    if torch.jit.is_tracing() or any(map(torch._C._get_dispatch_mode, (modes.FAKE, modes.PROXY))):
        return "a graph is being traced"
    if torch._C._are_functorch_transforms_active():
        return "a transform of functions is active"
    if any(getattr(everywhere, f"_global{hooks}", None) for hooks in _HOOKS):
        return "a hook is set on all modules"
    kind = None
    for name, module in root.named_modules():
        state, where = vars(module), name or "the model"
        if type(module) not in _BUILT:
            return f"{where} is a {type(module).__name__}"
        if "forward" in state:
            return f"the forward of {where} has been replaced"
        if any(state[hooks] for hooks in _HOOKS):
            return f"{where} has a hook"
        for key, x in state["_parameters"].items():
            if x is None:
                continue
            if type(x) is not nn.Parameter or type(x.data) is not Tensor:
                return f"{name}.{key} is no plain parameter"
            kind = kind or (x.device, x.dtype)
            if (x.device, x.dtype) != kind or x.device.type == "meta":
                return f"the weights are not all in one place and of one type ({name}.{key})"
    return None


class BahdanauPreTrainedModel(PreTrainedModel):
    """Initialisation and what the library asks of every class here."""

    config: BahdanauConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False
    int8 = False  # whether products of decoding and encoding are computed in 8 bits
    implementation: str | None = None
    _is_stateful = True  # assisted decoding is refused: a recurrent state cannot be rolled back
    _no_split_modules = ["BahdanauEncoder", "BahdanauDecoder"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012

    def set_implementation(self, implementation: str | None) -> None:
        """Choose how the model is computed; speed and rounding depend on it, and it is not saved.

        - `"reference"`: by its modules, step by step; `generate` by the library's loop.
        - `"fast"`: by loops of PyTorch's operations, on any device; the default on CPUs.
        - `None`: what the environment variable `BAHDANAU_IMPLEMENTATION` says, or else the default.
        - further names where the package has added ways for this machine; a `ValueError` says them.
        """
        if implementation not in (None, *implementations()):
            names = ", ".join(implementations())
            raise ValueError(f"implementation must be one of {names} here, not {implementation!r}")
        self._set_everywhere("implementation", implementation)

    def _set_everywhere(self, name: str, value: Any) -> None:
        for module in self.modules():
            if isinstance(module, BahdanauPreTrainedModel):
                setattr(module, name, value)

    def chosen_implementation(self, part: nn.Module | None = None) -> Implementation:
        """Say how this model, or a part that is about to be passed by, is computed now, and why."""
        if torch.compiler.is_exporting():
            return Implementation("reference", "the model is being exported")
        return self._choose(self if part is None else part)

    @torch.compiler.disable
    def _choose(self, part: nn.Module) -> Implementation:
        wish = self.implementation
        if wish not in implementations():  # nothing was asked for, or elsewhere
            wish = default_implementation(self.device.type)
        obstacle = "it was asked for" if wish == "reference" else find_obstacle(part)
        chosen = ("reference", obstacle) if obstacle else (wish, "all modules are as built")
        logger.debug("%s: %s, for %s", type(self).__name__, *chosen)
        return Implementation(*chosen)

    def fast_way(self, part: nn.Module | None = None) -> FastWay | None:
        """What computes this model, or that part of it, in place of its modules, if anything."""
        return FAST_WAYS.get(self.chosen_implementation(part).name)

    def project(self, layer: Any, x: Tensor) -> Tensor:
        """Call a linear layer, or compute it by the faster library where it is as built."""
        if self.fast_way(layer) is None:
            return layer(x)
        return linear(x, layer.weight, layer.bias)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set initial weights, as `config.initializer` says.

        Embeddings are normal(0, 1), matrices Xavier uniform, biases uniform in ±1/sqrt(n), n being
        the width of a layer's input (of the state, in a GRU). `"tutorial"`: linear matrices as
        biases, for its lazy layers keep PyTorch's values. `"orthogonal"`: recurrent matrices are,
        gate by gate, and biases 0. Embeddings are multiplied by `embedding_initializer_range`,
        everything else by `initializer_range`.
        """
        config, gain = self.config, self.config.initializer_range
        orthogonal, is_linear = config.initializer == "orthogonal", isinstance(module, nn.Linear)
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=config.embedding_initializer_range)
        elif isinstance(module, nn.Linear | nn.GRU | nn.GRUCell):
            fan = module.in_features if isinstance(module, nn.Linear) else module.hidden_size
            bound = 0.0 if orthogonal else gain / fan**0.5
            for name, parameter in module.named_parameters(recurse=False):
                if "bias" in name or (is_linear and config.initializer == "tutorial"):
                    init.uniform_(parameter, -bound, bound)
                elif not ("weight_hh" in name and orthogonal):
                    init.xavier_uniform_(parameter, gain=gain)
                elif not getattr(parameter, "_is_hf_initialized", False):
                    for gate in parameter.chunk(3):
                        init.orthogonal_(gate, gain=gain)

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, multiple: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Give both sides `new_num_tokens` rows: every token can then be read and emitted."""
        if new_num_tokens is None:
            if multiple is None:
                return self.get_input_embeddings()
            new_num_tokens = self.get_input_embeddings().num_embeddings
        decoder, how = self.get_decoder(), (new_num_tokens, multiple, mean_resizing)
        old = decoder.embed_tokens
        decoder.embed_tokens = self._get_resized_embeddings(old, *how)
        decoder.embed_tokens.requires_grad_(old.weight.requires_grad)
        embeddings = super()._resize_token_embeddings(*how)
        self.config.encoder_vocab_size = None
        return embeddings


# --- words ---------------------------------------------------------------------------------------


def embed(table: nn.Module, ids: Tensor | None, embeds: Any, size: int, side: str) -> Tensor:
    """Look up ids `(B, S)` below `size`, or take embeddings; `side` is `""` or `"decoder_"`."""
    if (ids is None) == (embeds is None):
        raise ValueError(f"pass exactly one of {side}input_ids and {side}inputs_embeds")
    shape = (embeds if ids is None else ids).shape
    if shape[1:2] == (0,):
        raise ValueError(f"{side}input of shape {tuple(shape)}: rows need at least one token")
    if ids is None:
        return embeds
    check_ids(ids, getattr(table, "num_embeddings", size), f"{side}input_ids")
    return table(ids)


def look_costs(x: Tensor) -> bool:
    """Whether to do without a look: in training on a device, which checks by itself, or on meta."""
    return x.is_meta or (x.device.type != "cpu" and torch.is_grad_enabled())


def check_ids(ids: Tensor, size: int, what: str) -> None:
    """Say which id is out of range, where an embedding would fail without a word on why."""
    if ids.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = torch.aminmax(ids)
    if look_costs(ids):
        torch._assert_async((low >= 0) & (high < size), f"an id of {what} is no id of this model")
    elif low < 0 or high >= size:
        raise ValueError(
            f"{what} has the id {int(low if low < 0 else high)}, but ids go from 0 to {size - 1}: "
            "does the tokenizer belong to this model, and does its target side know the token?"
        )


# --- the encoder (A.2.1) -------------------------------------------------------------------------


@dataclass
class BahdanauEncoderOutput(ModelOutput):
    """What the encoder says about a source sentence."""

    last_hidden_state: Tensor | None = None  # annotations, (B, S, C); 0 on padding
    # Each layer's after its last real token, (B, encoder_layers, C); backward, that is the first.
    final_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None  # embeddings (B, S, E), each layer's (B, S, C)
    attentions: tuple[Tensor, ...] | None = None  # always None: a recurrent encoder has none


class ReadingOrder(NamedTuple):
    """How one direction reads a batch: without padding, from one end to the other."""

    backward: bool
    to_steps: Tensor | None = None  # (S * B,), what it reads of `(B, S)`, flattened
    to_rows: Tensor | None = None  # (B * S,), and back from `(S, B)`
    last_step: Tensor | None = None  # (B,), each row's last real token in `(S, B)`

    def steps(self, hidden: Tensor) -> Tensor:
        """Rows `(B, S, width)` as they are read, `(S, B, width)`."""
        if self.to_steps is not None:
            B, S, width = hidden.shape
            return hidden.flatten(0, 1).index_select(0, self.to_steps).view(S, B, width)
        steps = hidden.transpose(0, 1)
        return steps.flip(0) if self.backward else steps.contiguous()

    def rows(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """States `(S, B, H)` as rows, `(B, S, H)`, and the last of each, `(B, H)`."""
        if self.to_rows is None or self.last_step is None:
            return (output.flip(0) if self.backward else output).transpose(0, 1), output[-1]
        (S, B, H), flat = output.shape, output.flatten(0, 1)
        rows, last = (flat.index_select(0, order) for order in (self.to_rows, self.last_step))
        return rows.view(B, S, H), last


def reading_orders(mask: Tensor | None, num_directions: int) -> list[ReadingOrder]:
    """Put real tokens first, by a bool mask `(B, S)`, and turn them round in a second direction.

    What follows them cannot reach them, so padding changes nothing, on whichever side it stands.
    """
    if mask is None:
        return [ReadingOrder(backward=False), ReadingOrder(backward=True)][:num_directions]
    B, S = mask.shape
    position = torch.arange(S, device=mask.device).expand(mask.shape)
    # No two keys are equal, so that any sort will do (ONNX has no stable one).
    order = torch.where(mask, position, position + S).argsort(dim=1)
    last = mask.sum(1, keepdim=True).clamp(min=1) - 1  # compiled, it cannot refuse an empty row
    orders, row = [order], torch.arange(B, device=mask.device)[:, None]
    if num_directions == 2:
        orders.append(order.gather(1, torch.where(position <= last, last - position, position)))
    to_steps = [(row * S + order).t().flatten() for order in orders]
    to_rows = [(order.argsort(dim=1) * B + row).flatten() for order in orders]
    ends = (last * B + row).flatten()
    return [ReadingOrder(i == 1, to_steps[i], to_rows[i], ends) for i in range(num_directions)]


class BahdanauGRU(nn.GRU):
    """A layer without cuDNN, which rounds float32 to TF32, and bfloat16 to float16."""

    def flatten_parameters(self) -> None:
        """Leave each weight in a place of its own; those in a common one could not be saved."""

    def forward(self, input: Any, hx: Any = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Run over `(S, B, input_size)`, in the type of the weights whatever autocast says."""
        cudnn, weight = torch.backends.cudnn, getattr(self, "weight_hh_l0", input)
        before, cudnn.enabled = cudnn.enabled, cudnn.enabled and not input.is_cuda
        try:
            with torch.autocast("cpu" if input.is_meta else input.device.type, enabled=False):
                output, state = super().forward(input.to(weight.dtype), hx)
        finally:
            cudnn.enabled = before
        return output.to(input.dtype), state


class BahdanauEncoder(BahdanauPreTrainedModel):
    """GRU layers over the source, in one direction or two; padding never reaches a real token."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        size = config.encoder_vocab_size or config.vocab_size
        self.embed_tokens = nn.Embedding(size, config.embedding_size)
        widths = [config.embedding_size] + [config.annotation_size] * (config.encoder_layers - 1)
        self.forward_layers, self.backward_layers = (
            nn.ModuleList(BahdanauGRU(width, config.hidden_size) for width in read)
            for read in (widths, widths if config.bidirectional_encoder else [])
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,  # what the library means for other encoders: ignored
    ) -> BahdanauEncoderOutput:
        """Annotate the source; arguments as in `BahdanauForConditionalGeneration.forward`."""
        config = self.config
        size = config.encoder_vocab_size or config.vocab_size
        inputs_embeds = embed(self.embed_tokens, input_ids, inputs_embeds, size, "")
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        mask = source_mask(attention_mask, inputs_embeds)
        mask = None if config.encoder_reads_padding else mask
        directions = [layers for layers in (self.forward_layers, self.backward_layers) if layers]
        orders = reading_orders(mask, len(directions))
        hidden = F.dropout(inputs_embeds, config.embedding_dropout, self.training)
        padding = None if mask is None else ~mask.unsqueeze(-1)
        if padding is not None:
            hidden = hidden.masked_fill(padding, 0.0)  # whatever stands there, NaN too
        way = self.fast_way()
        all_hidden, final_states = [hidden], []
        for i, layers in enumerate(zip(*directions, strict=True)):
            if i > 0:
                hidden = F.dropout(hidden, config.dropout, self.training)
            steps = [order.steps(hidden) for order in orders]  # (S, B, width) each
            if way is None:
                found = [layer(x)[0] for x, layer in zip(steps, layers, strict=True)]
            else:
                found = way.run_grus(steps, layers, self.int8)
            outputs = [order.rows(x) for order, x in zip(orders, found, strict=True)]
            hidden, final_state = (torch.cat(parts, dim=-1) for parts in zip(*outputs, strict=True))
            if padding is not None:
                hidden = hidden.masked_fill(padding, 0.0)
            all_hidden.append(hidden)
            final_states.append(final_state)
        layers_read = tuple(all_hidden) if output_hidden_states else None
        return BahdanauEncoderOutput(hidden, torch.stack(final_states, dim=1), layers_read)


def source_mask(attention_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the mask as bool `(B, S)`, refusing rows without a real token; `None` if all are."""
    if attention_mask is None:
        return None
    if attention_mask.shape != like.shape[:2]:
        raise ValueError(
            f"attention_mask is {tuple(attention_mask.shape)}, the source {tuple(like.shape[:2])}"
        )
    mask = attention_mask.to(like.device).bool()
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return mask
    shortest, row = mask.sum(dim=1).min(dim=0)
    if look_costs(mask):
        torch._assert_async(shortest > 0, "a row of attention_mask has no real token")
        return mask
    if shortest == 0:
        raise ValueError(
            f"row {int(row)} of attention_mask has no real token; leave empty sentences out, or "
            "give them their end token"
        )
    return None if shortest == mask.shape[1] else mask


# --- the decoder (A.2.2) -------------------------------------------------------------------------


class BahdanauGRUCell(nn.GRUCell):
    """One step of a GRU layer (eqs. of A.1.1 and A.2.2; Cho et al. 2014).

    r = sigmoid(W_r x + U_r s),  z = sigmoid(W_z x + U_z s),  n = tanh(W x + r * (U s)),
    s' = (1 - z) * n + z * s

    The paper's z is our 1 - z, and its reset gate multiplies s before U does.
    """

    def forward(self, input: Tensor, hx: Any = None, hold: Tensor | None = None) -> Tensor:
        """Update the state s `(B, H)`, which is `hx`, by x `(B, input_size)`, which is `input`.

        `hold` `(B, 1)` is added to the update gate before its sigmoid; a large number keeps s.
        """
        x_r, x_z, x_n = F.linear(input, self.weight_ih, self.bias_ih).chunk(3, dim=-1)
        s_r, s_z, s_n = F.linear(hx, self.weight_hh, self.bias_hh).chunk(3, dim=-1)
        reset = torch.sigmoid(x_r + s_r)
        update = torch.sigmoid(x_z + s_z if hold is None else x_z + s_z + hold)
        new = torch.tanh(x_n + reset * s_n)
        return (1 - update) * new + update * hx


class BahdanauAttention(nn.Module):
    """Additive attention (eqs. 5 and 6, appendix A.1.2).

    e_j = v_a^T tanh(W_a s + U_a h_j),   alpha = softmax(e),   c = sum_j alpha_j h_j

    U_a h does not depend on the state: `key` is called once a sentence, `forward` at every step.
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        width = config.attention_hidden_size or config.hidden_size
        self.query = nn.Linear(config.hidden_size, width, bias=False)  # W_a
        self.key = nn.Linear(config.annotation_size, width, bias=False)  # U_a
        self.score = nn.Linear(width, 1, bias=False)  # v_a

    def forward(
        self, s: Tensor, keys: Tensor, h: Tensor, bias: Tensor, dropout_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the context c `(B, C)`, and alpha `(B, S)` before dropout, exactly 0 on padding.

        s `(B, H)` is the top layer's previous state (or the one between two transitions), h are
        annotations `(B, S, C)`; keys U_a h and bias are as in `Source`, and the dropout mask
        `(B, S)` are factors on alpha.
        """
        features = torch.tanh(self.query(s).unsqueeze(1) + keys)  # (B, S, A)
        scores = self.score(features).squeeze(-1).to(bias.dtype) + bias
        alpha = scores.softmax(dim=-1).to(h.dtype)
        used = alpha if dropout_mask is None else alpha * dropout_mask
        return torch.einsum("bs,bsc->bc", used.to(h.dtype), h), alpha


class BahdanauReadout(nn.Module):
    """The paper's maxout layer over state, context and previous word (A.2.2).

    t = max over pairs of (U_o s_i + V_o E y_{i-1} + C_o c_i)
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        width = config.hidden_size + config.annotation_size + config.embedding_size
        self.projection = nn.Linear(width, 2 * config.output_size)

    def forward(
        self, state: Tensor, context: Tensor, embedding: Tensor, project: Callable | None = None
    ) -> Tensor:
        """`(..., H)`, `(..., C)`, `(..., E)` to `(..., output_size)`; `project`: a faster layer."""
        project = self.projection if project is None else project
        pieces = project(torch.cat([state, context, embedding], dim=-1))
        return pieces.unflatten(-1, (-1, 2)).amax(dim=-1)


class Source(NamedTuple):
    """What the decoder looks at: computed once per sentence, the same at every step."""

    annotations: Tensor  # (B, S, C); without attention (B, 1, C), the encoder's final state
    bias: Tensor  # at least float32 (B, S): 0 on a row's real tokens, hugely negative elsewhere
    keys: Tensor | None  # (B, S, A), U_a h in the paper
    gates: Tensor | None  # (B, S, 3H), the first layer's weights applied; of a fast way alone


class DropoutMasks(NamedTuple):
    """Factors drawn before the loop, 0 or 1 / (1 - p); `None` where nothing is dropped."""

    layers: Tensor | None = None  # (T, L - 1, B, H), on the output of each layer but the last
    attention: Tensor | None = None  # (T, B, S), on the attention weights


class Decoded(NamedTuple):
    """What T steps give."""

    states: Tensor  # (T, L, B, H), every layer's after each step
    weights: Tensor | None  # alpha (T, B, S) before dropout; None without attention
    contexts: Tensor | None  # (T, B, C); None where they can be made of the weights


class BahdanauCache(Cache):
    """What one decoding step hands to the next; its size does not grow with the output."""

    state: Tensor | None  # the layers' after the steps so far, (B, L, H); None before the first
    source: Source | None  # the source side, projected once per sentence
    is_compileable = is_croppable = False  # the library must not trace or crop it

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.source, self._num_steps = None, None, 0

    def update_state(self, state: Tensor, num_steps: int) -> None:
        """Keep the state, `(B, L, H)`, after `num_steps` more steps."""
        self.state = state
        self._num_steps += num_steps

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of steps taken."""
        return self._num_steps

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return -1: there is none."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on from row `beam_idx[i]`; beams of one sentence share their source."""
        if self.state is not None:
            self.state = self.state.index_select(0, beam_idx.to(self.state.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times, copies side by side."""
        self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows, state and source."""
        self.reorder_cache(indices)
        if self.source is not None:
            self.source = Source._make(
                None if x is None else x.index_select(0, indices.to(x.device)) for x in self.source
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: the past cannot be taken out of a recurrent state."""
        raise ValueError("a recurrent state cannot be cropped; start again from the first token")

    def __len__(self) -> int:
        return 0 if self.state is None else self.state.shape[1]

    @property
    def batch_size(self) -> int:
        """Rows held."""
        return 0 if self.state is None else self.state.shape[0]

    @property
    def is_initialized(self) -> bool:
        """Whether a step has been taken."""
        return self.state is not None


class BahdanauDecoder(BahdanauPreTrainedModel):
    """GRU layers over the target, the first one fed by what the attention finds in the source.

    The paper's layer reads context and word at once (A.2.2). With `conditional_gru` there are two
    transitions, with the attention between them (Sennrich et al. 2017, "Nematus", section 2):

    s'_i = GRU_1(E y_{i-1}, s_{i-1}),   c_i = attention(s'_i),   s_i = GRU_2(c_i, s'_i)
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        E, H, C = config.embedding_size, config.hidden_size, config.annotation_size
        self.embed_tokens = nn.Embedding(config.vocab_size, E)
        # Each layer's start state from both directions; one direction's states go in as they are.
        num_bridges = config.decoder_layers if config.bidirectional_encoder else 0
        self.bridge = nn.ModuleList(nn.Linear(C, H) for _ in range(num_bridges))
        self.attention = BahdanauAttention(config) if config.use_attention else None
        self.transition = BahdanauGRUCell(E, H) if config.conditional_gru else None
        width = C if config.conditional_gru else C + E
        self.layers = nn.ModuleList(
            BahdanauGRUCell(width if i == 0 else H, H) for i in range(config.decoder_layers)
        )
        self.readout = BahdanauReadout(config) if config.readout == "deep" else None
        self.post_init()

    def start_state(self, final_state: Tensor) -> Tensor:
        """s_0 = tanh(W_s h), `(B, L, H)`, from the encoder's final states, top layers aligned."""
        if not self.bridge:
            return final_state
        num_layers, offset = final_state.shape[1], final_state.shape[1] - len(self.bridge)
        sources = [min(max(i + offset, 0), num_layers - 1) for i in range(len(self.bridge))]
        states = [bridge(final_state[:, i]) for bridge, i in zip(self.bridge, sources, strict=True)]
        return torch.tanh(torch.stack(states, dim=1))

    def read(
        self, h: Tensor, final_state: Tensor, mask: Tensor | None, project: Callable | None = None
    ) -> Source:
        """Project the annotations once, for all steps; `project` may be the attention's key."""
        if self.attention is None:
            h, mask, keys = final_state[:, -1:], None, None  # the plain seq2seq's one context
        else:
            keys = (project or partial(self.project, self.attention.key))(h)
        dtype = torch.promote_types(h.dtype, torch.float32)
        bias = torch.zeros(h.shape[:2], dtype=dtype, device=h.device)
        if mask is not None:
            bias = bias.masked_fill(~mask.to(bias.device).bool(), torch.finfo(dtype).min)
        return Source(h, bias, keys, None)

    def input_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the context is read with, `(3H, C)`, and the word, `(3H, E)` and a bias `(3H,)`."""
        first: Any = self.layers[0]
        if self.transition is not None:
            return first.weight_ih, self.transition.weight_ih, self.transition.bias_ih
        C = self.config.annotation_size
        return first.weight_ih[:, :C], first.weight_ih[:, C:], first.bias_ih

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_final_state: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: BahdanauCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> DecoderOutput:
        """Take T steps with known words, ids `(B, T)` or embeddings `(B, T, E)`.

        `encoder_hidden_states` are annotations `(B, S, C)`, `encoder_final_state` is
        `(B, encoder_layers, C)`; a cache that goes on has both. `attention_mask` may be longer than
        T (the cached steps first). The rest is as in `BahdanauForConditionalGeneration.forward`.

        Returned is what the output layer reads, `(B, T, output_size)`; if asked for, as hidden
        states the embeddings and every layer's, `(B, T, H)`, the deep readout's output in place of
        the top layer's, and as `cross_attentions` one tensor `(B, 1, T, S)`.
        """
        config, size = self.config, self.config.vocab_size
        inputs_embeds = embed(self.embed_tokens, input_ids, inputs_embeds, size, "decoder_")
        embeddings = F.dropout(inputs_embeds, config.embedding_dropout, self.training)
        cache = past_key_values
        if cache is not None and not isinstance(cache, BahdanauCache):
            raise ValueError(
                "past_key_values must be a BahdanauCache, as this model returns it, not "
                f"{type(cache).__name__}"
            )
        if cache is None and use_cache:
            cache = BahdanauCache()
        if cache is not None and cache.state is not None and cache.source is not None:
            state, source = cache.state, cache.source
        elif encoder_hidden_states is None or encoder_final_state is None:
            raise ValueError(
                "without a cache to go on from, the decoder needs the encoder's output"
            )
        else:
            source = self.read(encoder_hidden_states, encoder_final_state, encoder_attention_mask)
            state = self.start_state(encoder_final_state)
        T, hold = embeddings.shape[1], None
        if attention_mask is not None:
            if (covered := attention_mask.shape[1]) < T:
                raise ValueError(
                    f"decoder_attention_mask covers {covered} steps, but there are {T}"
                )
            hold = (1 - attention_mask[:, -T:].to(state.dtype)) * HOLD
        masks, way = self._dropout_masks(T, source, state), self.fast_way()
        if way is not None and source.gates is None:
            source = source._replace(gates=linear(source.annotations, self.input_weights()[0]))
        decode = self.decode if way is None else partial(self.decode_fast, run=way.recur)
        decoded = decode(embeddings, state, source, masks, hold)
        if cache is not None:
            cache.source = source
            cache.update_state(decoded.states[-1].transpose(0, 1), T)

        dtype = embeddings.dtype  # the recurrence itself keeps at least float32
        states = decoded.states.permute(1, 2, 0, 3).to(dtype)  # (L, B, T, H)
        weights = decoded.weights  # as they are reported, (B, T, S)
        weights = None if weights is None else weights.transpose(0, 1).to(dtype)
        output = states[-1]
        if self.readout is not None:
            if decoded.contexts is not None:
                contexts = decoded.contexts.transpose(0, 1).to(dtype)
            elif weights is None:
                contexts = source.annotations.expand(-1, T, -1)
            else:
                dropped = masks.attention
                used = weights if dropped is None else weights * dropped.transpose(0, 1)
                contexts = torch.bmm(used, source.annotations)
            project = partial(self.project, self.readout.projection)
            output = self.readout(output, contexts, embeddings, project)
        results: dict[str, Any] = {"last_hidden_state": output, CACHE: cache}
        if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            results["hidden_states"] = (embeddings, *states[:-1].unbind(0), output)
        wanted = config.output_attentions if output_attentions is None else output_attentions
        if wanted and weights is not None:
            results["cross_attentions"] = (weights.unsqueeze(1),)
        return DecoderOutput(**results)

    def decode(
        self, words: Tensor, state: Tensor, source: Source, masks: DropoutMasks, hold: Tensor | None
    ) -> Decoded:
        """Take T steps, whose words are `(B, T, E)`, from the state `(B, L, H)` by the modules.

        `hold` `(B, T)` is 0 on real words, and a large number where a row's state must not move.
        """
        states, all_states, all_weights, contexts = list(state.unbind(1)), [], [], []
        for t, word in enumerate(words.unbind(1)):
            held = None if hold is None else hold[:, t, None]
            if self.transition is not None:
                states[0] = self.transition(word, states[0], held)
            if self.attention is None or source.keys is None:
                context = source.annotations[:, 0]
            else:
                dropped = None if masks.attention is None else masks.attention[t]
                seen = (source.keys, source.annotations, source.bias, dropped)
                context, alpha = self.attention(states[-1], *seen)
                all_weights.append(alpha)
            contexts.append(context)
            x = torch.cat([context, word], dim=-1) if self.transition is None else context
            for i, cell in enumerate(self.layers):
                states[i] = cell(x, states[i], held)
                x = states[i]
                if masks.layers is not None and i + 1 < len(states):
                    x = x * masks.layers[t, i]
            all_states.append(torch.stack(states))
        weights = torch.stack(all_weights) if all_weights else None
        return Decoded(torch.stack(all_states), weights, torch.stack(contexts))

    def decode_fast(
        self, words: Tensor, state: Tensor, source: Any, masks: DropoutMasks, hold: Any, run: Any
    ) -> Decoded:
        """Do the same by a fast loop, which `run` is."""
        cells: Any = self.layers if self.transition is None else (self.transition, *self.layers)
        inputs: Any = [(cell.weight_ih, cell.bias_ih) for cell in self.layers]
        recurrent: Any = [(cell.weight_hh, cell.bias_hh) for cell in cells]
        context_bias = None if self.transition is None else inputs[0][1]
        x = linear(words.transpose(0, 1), *self.input_weights()[1:])  # (T, B, 3H)
        attends: Any = (None,) * 5
        if self.attention is None:
            x = x + source.gates.transpose(0, 1)  # (1, B, 3H): one context at every step
        else:
            score, query = self.attention.score.weight[0], self.attention.query.weight
            attends = (source.keys, source.gates, source.bias, score, query)
        held = None if hold is None else hold.t()
        given = Inputs._make((x, state, *attends, *masks, held, context_bias))
        states, alpha = run(given, recurrent, inputs[1:])
        return Decoded(states, alpha, None)

    def _dropout_masks(self, num_steps: int, source: Source, state: Tensor) -> DropoutMasks:
        """Draw the factors of all steps before the loop; none outside training."""
        B, L, H = state.shape
        p, p_attention = float(self.config.dropout), float(self.config.attention_dropout)
        layers = attention = None
        if self.training and p > 0 and L > 1:
            layers = F.dropout(state.new_ones(num_steps, L - 1, B, H), p)
        if self.training and p_attention > 0 and self.attention is not None:
            attention = F.dropout(state.new_ones(num_steps, *source.bias.shape), p_attention)
        return DropoutMasks(layers, attention)


# --- the whole -----------------------------------------------------------------------------------


class BahdanauModel(BahdanauPreTrainedModel):
    """Encoder and decoder without the vocabulary head."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.encoder = BahdanauEncoder(config)
        self.decoder = BahdanauDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the encoder's embedding."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the encoder's embedding."""
        self.encoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BahdanauEncoderOutput | tuple | None = None,
        past_key_values: BahdanauCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: BahdanauCache | None = None,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput:
        """Read the source, if need be, take the target's steps; arguments as in the next class."""
        if past_key_values is not None and cache is not None:
            raise ValueError("past_key_values and cache are two names of one argument: pass one")
        cache = cache if past_key_values is None else past_key_values
        if encoder_outputs is not None:
            source = _as_encoder_output(encoder_outputs)
        elif input_ids is None and inputs_embeds is None and cache:
            source = BahdanauEncoderOutput()  # it is in the cache
        else:
            source = self.encoder(
                *(input_ids, attention_mask, inputs_embeds, output_hidden_states), return_dict=True
            )
            if input_ids is not None and attention_mask is None:
                self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        decoded = self.decoder(
            *(decoder_input_ids, decoder_attention_mask, source.last_hidden_state),
            *(source.final_state, attention_mask, cache, decoder_inputs_embeds),
            *(use_cache, output_attentions, output_hidden_states),
            return_dict=True,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            decoder_hidden_states=decoded.hidden_states,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=source.last_hidden_state,
            encoder_hidden_states=source.hidden_states,
            **{CACHE: decoded.get(CACHE)},
        )


def _as_encoder_output(outputs: BahdanauEncoderOutput | dict | tuple) -> BahdanauEncoderOutput:
    """Take the encoder's result in any form that it comes in, refusing another model's."""
    names = ("last_hidden_state", "final_state", "hidden_states")
    if not isinstance(outputs, dict):
        outputs = dict(zip(names, outputs, strict=False))
    if outputs.get("last_hidden_state") is None or outputs.get("final_state") is None:
        raise ValueError(
            "encoder_outputs has no final_state, from which the decoder starts: pass what this "
            "model's encoder returns"
        )
    return BahdanauEncoderOutput(**{name: outputs.get(name) for name in names})


class BahdanauForConditionalGeneration(BahdanauPreTrainedModel, GenerationMixin):
    """The translation model: `BahdanauModel` and a softmax over the target vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}  # noqa: RUF012
    _has_warned_of_labels = False

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.model = BahdanauModel(config)
        self.lm_head = nn.Linear(config.output_size, config.vocab_size)
        self.post_init()

    def use_int8(self, enabled: bool = True) -> Self:
        """Compute the products of the encoder and of greedy and beam search in 8 bits, on a CPU.

        Weights are rounded row by row, and what they are multiplied with as it comes. The weights
        themselves stay: scores, attentions and sampling use them as they are, and a change of them
        is seen. A `ValueError` says what stands against it.
        """
        if enabled and self.training:
            raise ValueError("8-bit products are for translating: call eval() first")
        if enabled and self.device.type != "cpu":
            raise ValueError(f"8-bit products run on a CPU, not on {self.device}")
        if enabled and not processor().int8:
            raise ValueError("this PyTorch has no 8-bit products: they need FBGEMM, on x86")
        self._set_everywhere("int8", enabled)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set the mode; training is refused while products are computed in 8 bits."""
        if mode and self.int8:
            raise ValueError("8-bit products are for translating: call use_int8(False) to train")
        return super().train(mode)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As the library's; refused while products are computed in 8 bits, which is not saved."""
        if self.int8:
            raise ValueError("8-bit products are not saved: call use_int8(False) to save the model")
        # Tools that merge adapters say that weights are no longer shared when they still are; what
        # is shared is saved once, and would be missing.
        weight = getattr(self.lm_head, "weight", None)
        self.config.tie_word_embeddings = weight is self.model.decoder.embed_tokens.weight
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the library would build a cache of keys and values; ours is made in forward

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The start token, then all labels `(B, T)` but the last; data collators call this."""
        pad, start = self.config.pad_token_id, self.config.decoder_start_token_id
        if pad is None or start is None:
            raise ValueError("labels need config.pad_token_id and config.decoder_start_token_id")
        shifted = torch.full_like(labels, start)
        shifted[:, 1:] = self._known_labels(labels)[:, :-1]
        return shifted.masked_fill(shifted == IGNORED_LABEL, pad)

    def _known_labels(self, labels: Tensor) -> Tensor:
        """Labels that the target side has; a token of the source side alone becomes `<unk>`."""
        size, whole = self.config.vocab_size, self.config.encoder_vocab_size
        check_ids(labels.masked_fill(labels == IGNORED_LABEL, 0), whole or size, "labels")
        if whole is None or whole == size or torch.compiler.is_compiling():
            return labels
        is_unknown, unk = labels >= size, self.config.unk_token_id
        if unk is not None and look_costs(labels):
            return labels.masked_fill(is_unknown, unk)
        num_unknown = int(is_unknown.sum())
        if num_unknown == 0:
            return labels
        if unk is None:
            raise ValueError(
                f"{num_unknown} labels only the source has, and no unk_token_id for them"
            )
        if not self._has_warned_of_labels:
            self._has_warned_of_labels = True
            logger.warning(
                f"{num_unknown} of {int((labels != IGNORED_LABEL).sum())} labels here are tokens "
                f"that only the source has; they and later ones count as <unk> ({unk})."
            )
        return labels.masked_fill(is_unknown, unk)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BahdanauEncoderOutput | tuple | None = None,
        past_key_values: BahdanauCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        skip_logits: bool = False,
        cache: BahdanauCache | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Predict each target word from the source and the words before it.

        - Source: `input_ids`, `(B, S)` below `encoder_vocab_size`, or `inputs_embeds` `(B, S, E)`,
          with `attention_mask` `(B, S)`, 1 on real tokens, at least one per row; or instead
          `encoder_outputs`, the encoder's result.
        - Target: `decoder_input_ids`, `(B, T)` below `vocab_size`, or `decoder_inputs_embeds`
          `(B, T, E)`. Where `decoder_attention_mask` `(B, T)` is 0, a row's state stays as it was.
          They go on from `past_key_values`, a cache that this model returned; its name is `cache`
          from transformers 5.24 on, and only one of them may be passed.
        - Loss: `labels` `(B, T)`, -100 where ignored, make the decoder's input if none is given;
          what only the source side has counts as `<unk>`. The sum is divided by
          `num_items_in_batch`, by default the labels counted here. With `skip_logits` it is
          computed on real tokens alone, and no logits are returned. `label_smoothing`, in [0, 1),
          default 0, is the share of probability spread evenly over the vocabulary (in `kwargs`: the
          library's `Trainer` takes every argument with "label" in its name for labels).
        - Returned: the last `logits_to_keep` steps' logits (0: all) or those of these steps; a
          cache with `use_cache`, by default `config.use_cache`, never with labels; every layer's
          output with `output_hidden_states`; with `output_attentions` as `cross_attentions` one
          tensor `(B, 1, T, S)`.

        A `ValueError` says which id, label, row, input or cache cannot be.
        """
        if labels is not None:
            use_cache, labels = False, self._known_labels(labels)
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            *(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask),
            *(encoder_outputs, past_key_values, inputs_embeds, decoder_inputs_embeds),
            *(use_cache, output_attentions, output_hidden_states, cache),
            return_dict=True,
        )
        hidden = F.dropout(outputs.last_hidden_state, self.config.readout_dropout, self.training)
        loss = logits = None
        if labels is None or not skip_logits:
            keep = logits_to_keep
            hidden = hidden[:, slice(-keep, None) if isinstance(keep, int) else keep]
            logits = self.project(self.lm_head, hidden)
        if labels is not None:
            loss = self._loss_sum(hidden, logits, labels, kwargs.get("label_smoothing", 0.0))
            num_labels = (labels != IGNORED_LABEL).sum()
            loss = loss / (num_labels if num_items_in_batch is None else num_items_in_batch)
        also = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return Seq2SeqLMOutput(loss=loss, logits=logits, **also)

    def _loss_sum(self, hidden: Tensor, logits: Any, labels: Tensor, smoothing: float) -> Tensor:
        """Sum the cross-entropy over the real labels."""
        if logits is None:
            head, real, some = self.lm_head, labels != IGNORED_LABEL, None
            if look_costs(labels):  # then their number is not known, and all are multiplied
                hidden, labels, some = hidden.flatten(0, 1), labels.flatten(), real.flatten()
            else:
                hidden, labels = hidden[real], labels[real]
            if (way := self.fast_way(head)) is not None:
                return way.cross_entropy(hidden, head.weight, head.bias, labels, smoothing, some)
            logits = head(hidden)
        logits = logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))
        options: dict[str, Any] = {"ignore_index": IGNORED_LABEL, "label_smoothing": smoothing}
        return F.cross_entropy(logits, labels.flatten(), reduction="sum", **options)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Prepare one step; a full prefix passed with its cache is cut to what is new."""
        cache = kwargs.get(CACHE)
        done = 0 if cache is None else cache.get_seq_length()
        if next_sequence_length is None and 0 < done < input_ids.shape[1]:
            next_sequence_length = input_ids.shape[1] - done
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, **kwargs
        )

    def _expand_inputs_for_generation(self, *args: Any, **model_kwargs: Any) -> tuple:
        """Repeat rows for beams and samples, in a copy of `encoder_outputs`: it is the caller's."""
        if model_kwargs.get("encoder_outputs") is not None:
            model_kwargs["encoder_outputs"] = _as_encoder_output(model_kwargs["encoder_outputs"])
        return super()._expand_inputs_for_generation(*args, **model_kwargs)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """The library's, with those that are told ids reading scores of the whole vocabulary."""
        processors = super()._get_logits_processor(*args, **kwargs)
        size = self.config.encoder_vocab_size or self.config.vocab_size
        return read_whole_vocabulary(processors, self.config.vocab_size, size)

    @torch.no_grad()
    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """As the library's; what asks for plain tokens is searched for at once."""
        asked, rules, way = dict(kwargs), None, None
        ids, mask = asked.pop("input_ids", inputs), asked.pop("attention_mask", None)
        pad = asked.get("pad_token_id", (generation_config or self.generation_config).pad_token_id)
        told = isinstance(ids, Tensor) and pad not in (None, self.config.eos_token_id)
        if mask is None and told and not ids.is_floating_point():  # as the library's decoders do
            mask = kwargs["attention_mask"] = (ids != pad).long()
        once = generation_config is None and (inputs is None or "input_ids" not in kwargs)
        if once and isinstance(ids, Tensor) and isinstance(mask, Tensor):
            rules = plain_rules(self.generation_config, asked)
            way = None if rules is None else self.fast_way()
        if rules is None or way is None:
            return super().generate(inputs, generation_config, **kwargs)
        start = ids.new_full((len(ids), 1), rules["decoder_start_token_id"])
        rules["max_length"] = rules["max_new_tokens"] + 1
        return self._search(way, rules, start, self.model.encoder(ids, mask), mask)

    def _sample(self, input_ids: Tensor, **asked: Any) -> Tensor | ModelOutput:
        return self._search_fast(super()._sample, input_ids, asked)

    def _beam_search(self, input_ids: Tensor, **asked: Any) -> Tensor | ModelOutput:
        return self._search_fast(super()._beam_search, input_ids, asked)

    def _search_fast(self, loop: Callable, input_ids: Tensor, asked: dict) -> Tensor | ModelOutput:
        """Take a fast way, where there is one, and tokens are all that is asked for."""
        check_ids(input_ids, self.config.vocab_size, "decoder_input_ids")
        way = self.fast_way()
        if way is None or not asks_for_tokens_only(**asked):
            return loop(input_ids, **asked)
        config: GenerationConfig = asked["generation_config"]
        K, mask = config.num_beams or 1, asked.get("attention_mask")  # rows repeated for the beams
        read = {x: asked["encoder_outputs"][x][::K] for x in ("last_hidden_state", "final_state")}
        rules = {**vars(config), "eos_token_id": config._eos_token_tensor}
        pad = config._pad_token_tensor
        rules["pad_token_id"] = 0 if pad is None else int(pad)
        return self._search(way, rules, input_ids[::K], read, None if mask is None else mask[::K])

    def _search(self, way: FastWay, rules: dict, start: Tensor, read: Any, mask: Any) -> Tensor:
        ends, pad = rules.get("eos_token_id"), rules["pad_token_id"]
        ends = None if ends is None else torch.as_tensor(ends, device=start.device).view(-1)
        given = (start, read["last_hidden_state"], read["final_state"], mask, rules["max_length"])
        search = Search(self.model.decoder, self.lm_head, *given, ends, pad)
        if rules.get("num_beams") in (None, 1):
            return way.greedy_search(search)
        if pad == 0 and ends is not None:  # as the library's does
            search = search._replace(fill_token_id=int(ends[0]))
        beams = {rule: rules[rule] for rule in RULES if rules.get(rule) is not None}
        return way.beam_search(search._replace(**beams))


# What a model is made of: a fast way knows these types, and no subclass of them.
_BUILT = {
    *(nn.Embedding, nn.Linear, nn.ModuleList, BahdanauGRU),
    *(BahdanauAttention, BahdanauDecoder, BahdanauEncoder, BahdanauForConditionalGeneration),
    *(BahdanauGRUCell, BahdanauModel, BahdanauReadout),
}

# The library asks for them several times in each call of `generate`.
_Whole = BahdanauForConditionalGeneration
for _method in (BahdanauEncoder.forward, _Whole.forward, _Whole.prepare_inputs_for_generation):
    _method.__signature__ = inspect.signature(_method)  # type: ignore[union-attr]
