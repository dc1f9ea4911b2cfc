"""Weights laid out once: never older than the weights, exact where they say so, close elsewhere."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from batches import SOURCES, batch, pad
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoding import decisive
from torch import Tensor, nn
from torch.testing import assert_close

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, layout_bahdanau
from bahdanau_hf.layout_bahdanau import Screen
from bahdanau_hf.packed_bahdanau import Int8Product, has_int8, make_product, remember

NEEDS_INT8 = pytest.mark.skipif(not has_int8(), reason="PyTorch has no 8-bit products here")
KINDS = [False, pytest.param(True, marks=NEEDS_INT8)]


# What is remembered

CHANGES: dict[str, Callable[[nn.Linear], object]] = {
    "in place": lambda layer: layer.weight.mul_(1.5),
    "one number": lambda layer: layer.weight[3, 2].add_(1.0),
    "one number's last bit": lambda layer: layer.weight.view(torch.int32)[3, 2].add_(1),
    "one number behind the graph": lambda layer: layer.weight.data[3, 2].add_(1.0),
    "rows exchanged": lambda layer: layer.weight.data.copy_(layer.weight.data.flip(0)),
    "columns exchanged": lambda layer: layer.weight.data.copy_(layer.weight.data.roll(2, 1)),
    "signs turned": lambda layer: layer.weight.data.neg_(),
    "other data": lambda layer: setattr(layer.weight, "data", layer.weight.data + 1),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight + 1)),
    "a bias": lambda layer: layer.bias.data[1:2].add_(1.0),
    "biases exchanged": lambda layer: layer.bias.data.copy_(layer.bias.data.flip(0)),
    "through numpy": lambda layer: layer.weight.detach().numpy().__setitem__((0, 0), 7.0),
    "loaded": lambda layer: layer.load_state_dict(nn.Linear(6, 5).state_dict()),
    "loaded and assigned": lambda layer: layer.load_state_dict(
        nn.Linear(6, 5).state_dict(), assign=True
    ),
    "not a number": lambda layer: layer.weight.data[0, :1].fill_(torch.nan),
    "a fused optimizer": lambda layer: step(layer, fused=True),
    "a plain optimizer": lambda layer: step(layer, foreach=False),
}


def step(layer: nn.Linear, **kind: bool) -> None:
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(layer.parameters(), lr=0.1, **kind).step()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_every_change_is_seen(change) -> None:
    layer, made = nn.Linear(6, 5), []

    def recall() -> int:
        return remember(layer, "key", list(layer.parameters()), lambda: made.append(0) or len(made))

    assert [recall(), recall()] == [1, 1]
    change(layer)
    assert [recall(), recall()] == [2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 6, 8])
@torch.no_grad()
def test_any_number_of_any_matrix_is_looked_at(dtype, width) -> None:
    layer, whole = nn.Linear(1, 1), torch.randn(5, width + 3).to(dtype)
    for part in (whole, whole[:, 1 : width + 1], whole[:, :width].t()):
        for place in range(part.numel()):
            before = remember(layer, 0, [part], object)
            assert remember(layer, 0, [part], object) is before
            row, column = divmod(place, part.shape[1])
            part[row, column] += 1
            assert remember(layer, 0, [part], object) is not before


def test_what_else_it_depends_on_and_whose_it_is() -> None:
    one, other, x = nn.Linear(1, 1), nn.Linear(1, 1), [torch.ones(2, 2)]
    first = remember(one, "a", x, object)
    assert remember(one, "a", x, object) is first
    assert remember(other, "a", x, object) is not first
    assert remember(one, "b", x, object) is not first
    assert remember(one, "b", [*x, *x], object) is not remember(one, "b", x, object)


# Through a whole model


def wide_model(seed: int = 0, **changes: object) -> BahdanauForConditionalGeneration:
    """Wide enough for everything that is laid out."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 701, "embedding_size": 96, "hidden_size": 160, "initializer_range": 2.0}
    return decisive(BahdanauForConditionalGeneration(BahdanauConfig(**sizes | changes)).eval())


def sentences() -> dict[str, Tensor]:
    ids, mask = pad(SOURCES, "right")
    return {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 8}


@pytest.mark.parametrize("int8", KINDS)
def test_a_changed_model_translates_as_a_fresh_one(int8) -> None:
    """Parameter by parameter, written behind the graph's back."""
    model, options = wide_model().use_int8(int8), {**sentences(), "max_new_tokens": 3}
    for parameter in model.parameters():
        model.generate(**options)
        parameter.data.mul_(-1)
        assert torch.equal(model.generate(**options), copy.deepcopy(model).generate(**options))


@pytest.mark.parametrize("int8", KINDS)
def test_training_in_between(int8) -> None:
    model = wide_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    seen = []
    for _ in range(3):
        model.use_int8(int8)
        seen.append(model.generate(**sentences()).tolist())
        assert seen[-1] == copy.deepcopy(model).generate(**sentences()).tolist()
        model.use_int8(False).train()
        model(**batch()).loss.backward()
        optimizer.step()
        model.eval()
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize("int8", KINDS)
def test_it_is_neither_copied_nor_pickled(int8) -> None:
    model = wide_model().use_int8(int8)
    expected = model.generate(**sentences())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.int8 == int8
        assert torch.equal(other.generate(**sentences()), expected)
    assert set(model.state_dict()) == set(wide_model().state_dict())


def test_another_layer_in_place_of_the_head_is_called() -> None:
    """As adapters put it there; its own parameters count as well."""

    class Adapter(nn.Module):
        def __init__(self, base: nn.Linear):
            super().__init__()
            self.base, self.shift = base, nn.Parameter(torch.zeros(base.out_features))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.shift

    model = wide_model()
    expected = model.generate(**sentences())
    model.lm_head = Adapter(model.lm_head)
    assert torch.equal(model.generate(**sentences()), expected)
    model.lm_head.shift.data[5] = 1e6
    assert model.generate(**sentences())[0].tolist() == [1] + [5] * 8


# The likeliest word


@NEEDS_INT8
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(20, 300),
    st.integers(1, 70),
    st.sampled_from([1e-4, 0.1, 1.0, 30.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_the_screen_finds_the_likeliest(rows, words, width, size, with_bias, seed) -> None:
    """Against all products in float64, whatever is asked about: nearly equal ones, outliers."""
    torch.manual_seed(seed)
    weight = torch.randn(words, width) * size
    weight[::7] *= 20 * torch.rand(len(weight[::7]), 1)
    weight[words // 2] = weight[words // 3] * (1 + 1e-3)
    bias = torch.randn(words) * size if with_bias else None
    h = torch.randn(rows, width).tanh()
    found = Screen(weight, bias).likeliest(h)
    exact = h.double() @ weight.double().t() + (0 if bias is None else bias.double())
    if found is None:
        return  # the caller takes all products
    chosen = exact.gather(1, found[:, None])[:, 0]
    slack = 1e-5 * (weight.abs().amax() * width + 1e-3)
    assert (chosen >= exact.amax(dim=1) - slack).all()


@NEEDS_INT8
def test_the_screen_takes_the_first_of_equals_and_spares_products(monkeypatch) -> None:
    torch.manual_seed(0)
    weight, h = torch.randn(900, 64), torch.randn(5, 64).tanh()
    weight[800:810] = weight[:10] = 3 * h[:1] + 2 * h[1:2]
    screen = Screen(weight, None)
    expected = (h @ weight.t()).argmax(dim=1)
    assert expected[0] == 0
    assert screen.likeliest(h).tolist() == expected.tolist()
    assert [screen.likeliest(row[None]).item() for row in h] == expected.tolist()
    monkeypatch.setattr(layout_bahdanau, "MOST_CANDIDATES", 0.0)
    assert screen.likeliest(h) is None


@NEEDS_INT8
def test_the_screen_leaves_what_is_not_a_number_to_others() -> None:
    screen = Screen(torch.randn(40, 8), None)
    for rows in (1, 3):
        h = torch.rand(rows, 8)
        h[-1, 0] = torch.nan
        assert screen.likeliest(h) is None


@NEEDS_INT8
@pytest.mark.parametrize("rows", [1, 4])
def test_states_out_of_bounds_are_not_screened(rows) -> None:
    """Somebody's own encoder output: 8 bits from -1 to 1 would not hold it."""
    model = wide_model()
    model.model.decoder.bridge = nn.ModuleList()
    outputs = {
        "last_hidden_state": torch.randn(rows, 3, 320),
        "final_state": torch.zeros(rows, 1, 160),
    }
    outputs["final_state"][:, :, 0] = 50.0
    start = torch.ones(rows, 1, dtype=torch.long)
    options = {"encoder_outputs": outputs, "decoder_input_ids": start, "max_new_tokens": 6}
    expected = model.generate(**options, return_dict_in_generate=True).sequences
    assert torch.equal(model.generate(**options), expected)


# Products


@pytest.mark.parametrize("rows", [1, 2, 64, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["rows", "slice"])
def test_packed_products(rows, dtype, form) -> None:
    whole, bias = torch.randn(401, 300).to(dtype), torch.randn(401).to(dtype)
    weight = whole[:, 20:] if form == "slice" else whole
    x = torch.randn(rows, weight.shape[1])
    y = make_product(weight, bias, dtype, pack=True)(x)
    assert y.dtype == torch.promote_types(dtype, torch.float32)
    expected = nn.functional.linear(x.to(dtype).double(), weight.double(), bias.double())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    assert_close(y.double(), expected, rtol=tolerance, atol=tolerance * 30)


@NEEDS_INT8
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_eight_bits_by_whole_numbers(rows, with_bias) -> None:
    """The same in integers: even the largest sums are exact. And rows do not see each other."""
    weight, bias = torch.randn(37, 300), torch.randn(37) if with_bias else None
    weight[:5], weight[5] = weight[:5].sign(), 0.0
    x = torch.randn(rows, 300)
    x[0] = weight[0]
    x[rows // 2, 1:] *= 1e-6
    for within_one in (False, True):
        x = x.clamp(-1, 1) if within_one else 10 * x
        product = Int8Product(weight, bias, within_one)
        scale = 1.0 if within_one else x.abs().amax(dim=1, keepdim=True)
        whole_x = (x / scale * product.largest).round().double()
        scales = weight.abs().amax(dim=1).clamp(min=1e-30) / 127
        whole_weight = (weight / scales[:, None]).round().double()
        expected = whole_x @ whole_weight.t() * (scales * scale / product.largest).double()
        expected = expected if bias is None else expected + bias
        y = product(x)
        assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
        for i in range(rows):
            assert torch.equal(product(x[i : i + 1])[0], y[i])
