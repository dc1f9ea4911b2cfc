"""Weights laid out once: never older than the weights, and the screen of words made of them."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bahdanau_hf.modeling import generation_bahdanau, matmul_bahdanau
from bahdanau_hf.modeling.matmul_bahdanau import remember
from bahdanau_hf.modeling.processor_bahdanau import processor
from tests.helpers.batches import batch, source
from tests.helpers.decisive_model import wide_model

NEEDS_INT8 = pytest.mark.skipif(not processor().int8, reason="PyTorch has no 8-bit products here")
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


def test_weights_that_are_promised_to_stay_are_compared_once(monkeypatch) -> None:
    compared, contents = [], matmul_bahdanau._contents
    monkeypatch.setattr(
        matmul_bahdanau, "_contents", lambda x: compared.append(len(x)) or contents(x)
    )
    one, other, x = nn.Linear(1, 1), nn.Linear(1, 1), [torch.ones(2, 2)]
    with matmul_bahdanau.fixed_weights():
        first = remember(one, "a", x, object)
        with matmul_bahdanau.fixed_weights():
            assert remember(one, "a", x, object) is first
        assert len(compared) == 1
        assert remember(one, "b", x, object) is not first
        remember(other, "a", x, object)
        assert len(compared) == 3
    again = remember(one, "b", x, object)
    x[0][0, 0] = 5
    assert remember(one, "b", x, object) is not again
    assert len(compared) == 5


# Through a whole model


@pytest.mark.parametrize("int8", KINDS)
def test_a_changed_model_translates_as_a_fresh_one(int8) -> None:
    """Parameter by parameter, written behind the graph's back."""
    model = wide_model(conditional_gru=True).use_int8(int8)
    options = {**source(), "max_new_tokens": 3}
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
        seen.append(model.generate(**source(), max_new_tokens=8).tolist())
        assert seen[-1] == copy.deepcopy(model).generate(**source(), max_new_tokens=8).tolist()
        model.use_int8(False).train()
        model(**batch()).loss.backward()
        optimizer.step()
        model.eval()
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize("int8", KINDS)
def test_it_is_neither_copied_nor_pickled(int8) -> None:
    model = wide_model().use_int8(int8)
    expected = model.generate(**source(), max_new_tokens=8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.int8 == int8
        assert torch.equal(other.generate(**source(), max_new_tokens=8), expected)
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
    expected = model.generate(**source(), max_new_tokens=8)
    model.lm_head = Adapter(model.lm_head)
    assert torch.equal(model.generate(**source(), max_new_tokens=8), expected)
    model.lm_head.shift.data[5] = 1e6
    assert model.generate(**source(), max_new_tokens=8)[0].tolist() == [1] + [5] * 8


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("largest", [0, generation_bahdanau.LARGEST_TABLE])
@torch.no_grad()
def test_embeddings_are_laid_out_once(largest, conditional, monkeypatch) -> None:
    """As a table, or, if that would be too large, as a product."""
    model = wide_model(conditional_gru=conditional)
    expected = model.generate(**source(), max_new_tokens=8)
    monkeypatch.setattr(generation_bahdanau, "LARGEST_TABLE", largest)
    model = copy.deepcopy(model)
    layout = generation_bahdanau.lay_out(model.model.decoder, model.lm_head, torch.float32)
    assert (layout.table is None, layout.embedding is None) == (largest == 0, largest > 0)
    assert torch.equal(model.generate(**source(), max_new_tokens=8), expected)


@pytest.mark.parametrize("rows", [1, 4])
def test_states_out_of_bounds_are_searched_from(rows) -> None:
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
