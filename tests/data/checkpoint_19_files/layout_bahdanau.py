"""The decoder's weights as its search loops read them, and the likeliest word without all products.

Dimensions: M rows, V vocabulary, E embedding, H hidden, A attention, C annotation, D the output
layer's input.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .decoder_bahdanau import BahdanauDecoder
from .packed_bahdanau import Int8Product, Product, can_pack, has_int8, make_product, remember
from .products_bahdanau import Linear
from .recurrence_bahdanau import prepare

LARGEST_TABLE = 1 << 24  # numbers; 64 MB
MOST_CANDIDATES = 1 / 16  # of all words; with more than so many, all products are cheaper


class Layout(NamedTuple):
    """The decoder's products; all but the table's take and give matrices of at least float32."""

    table: Tensor | None  # (V, 3H), each word's part of the first layer's gates; or, if too large:
    embedding: Product  # E to 3H
    recurrent: tuple[Product, ...]  # each layer's H to 3H; with attention the top's to 3H + A
    inputs: tuple[Product, ...]  # H to 3H, of all layers but the first
    score: Tensor | None
    key: Product | None  # C to A
    context: Product  # C to 3H
    readout: Product | None  # H + C + E to 2D, of the deep readout
    head: Product  # D to V
    screen: "Screen | None"


class Screen:
    """The likeliest word, exactly, by few products: all words in 8 bits, then those in question.

    With weights W' and a state h' of 8 bits, a logit is off by at most

    |w h - w' h'| <= |w - w'| |h| + |w'| |h - h'|

    so only words whose rough logit is within twice this of the best one can be the likeliest.

    Args:
        weight: the output layer's, float32 `(V, D)`.
        bias: `(V,)` or `None`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach()
        self._rough = Int8Product(self._weight, self._bias, within_one=True)
        rounded = self._rough.rounded
        largest = float(rounded.norm(dim=1).max())
        width = weight.shape[1] ** 0.5
        # Both errors, with room for those of float32, in which the rough logits are given.
        self._per_norm = 2.002 * (
            float((self._weight - rounded).norm(dim=1).max()) + 1e-6 * largest
        )
        self._at_least = 2.002 * (largest * width / (2 * self._rough.largest) + 1e-6)

    def likeliest(self, h: Tensor) -> Tensor | None:
        """The likeliest words `(M,)` of `(M, D)` within [-1, 1]; `None` if too many may be it."""
        rough, num_rows = self._rough(h), h.shape[0]
        if num_rows == 1:  # no tensors where numbers will do: a step is short
            rough, h = rough[0], h[0]
            least = rough.max().item() - h.norm().item() * self._per_norm - self._at_least
            words = (rough >= least).nonzero().flatten()
            if len(words) <= 1:
                return words if len(words) else None  # none: what came is not a number
            if len(words) > MOST_CANDIDATES * len(rough):
                return None
            exact = torch.mv(self._weight.index_select(0, words), h)
            if self._bias is not None:
                exact += self._bias.index_select(0, words)
            return words[exact.argmax(dim=0, keepdim=True)]
        margin = h.norm(dim=1, keepdim=True).mul_(self._per_norm).add_(self._at_least)
        # Turned round, so that what is not a number counts among the candidates.
        near = (rough < rough.amax(dim=1, keepdim=True) - margin).logical_not_()
        rows, words = near.nonzero(as_tuple=True)
        num_words = rough.shape[1]
        if len(words) > MOST_CANDIDATES * num_rows * num_words:
            return None
        exact = torch.linalg.vecdot(self._weight[words], h[rows])
        if self._bias is not None:
            exact += self._bias[words]
        best = exact.new_full((num_rows,), -torch.inf).scatter_reduce_(0, rows, exact, "amax")
        words = words.where(exact == best[rows], num_words)  # of equals the first, as argmax
        return words.new_full((num_rows,), num_words).scatter_reduce_(0, rows, words, "amin")


def lay_out(decoder: BahdanauDecoder, head: nn.Module, dtype: torch.dtype) -> Layout:
    """Lay the weights out, or take what was laid out before if they have not changed.

    Args:
        decoder: the decoder.
        head: the output layer.
        dtype: what is multiplied, unless the decoder multiplies in 8 bits.
    """
    if not can_pack(decoder.device):
        return _make(decoder, head, dtype, pack=False)
    weights = {id(x): x for x in (*decoder.parameters(), *head.parameters())}  # tied ones once
    key = (dtype, decoder.int8)
    return remember(
        decoder, key, list(weights.values()), lambda: _make(decoder, head, dtype, pack=True)
    )


def _make(decoder: BahdanauDecoder, head: nn.Module, dtype: torch.dtype, pack: bool) -> Layout:
    config, weights = decoder.config, decoder.weights()
    prepared = prepare(weights, config.annotation_size)
    int8 = decoder.int8
    if int8 and not (pack and has_int8()):
        raise ValueError("8-bit products run on x86 CPUs alone, and outside of training")

    def product(weight: Tensor, bias: Tensor | None = None, within_one: bool = True) -> Product:
        return make_product(weight, bias, dtype, pack, int8, within_one)

    def layer(module: nn.Module, within_one: bool) -> Product:
        if type(module) is not Linear:  # somebody has put another layer in its place
            return lambda x: module(x.to(dtype)).to(torch.promote_types(dtype, torch.float32))
        return product(module.weight, module.bias, within_one)

    embeddings, (weight, bias) = decoder.embed_tokens.weight, prepared.inputs[0]
    table = None
    if pack and len(embeddings) * len(weight) <= LARGEST_TABLE:
        table = make_product(weight, bias, dtype)(embeddings.detach())
    deep = config.readout == "deep"
    screen = None
    if pack and not deep and not int8 and dtype == torch.float32 and type(head) is Linear:
        screen = Screen(head.weight, head.bias) if has_int8() else None
    return Layout(
        table=table,
        embedding=make_product(weight, bias, dtype, pack, int8),
        recurrent=tuple(product(*pair) for pair in prepared.recurrent),
        inputs=tuple(product(*pair) for pair in prepared.inputs[1:]),
        score=prepared.score,
        key=None if decoder.attention is None else layer(decoder.attention.key, True),
        context=product(weights.layers[0].weight_ih[:, : config.annotation_size]),
        readout=layer(decoder.readout.projection, False) if decoder.readout is not None else None,
        head=layer(head, within_one=not deep),
        screen=screen,
    )
