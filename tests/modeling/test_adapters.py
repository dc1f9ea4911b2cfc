"""PEFT's adapters: kept apart, merged, saved and loaded, a model says the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.testing import assert_close

from bahdanau_hf import BahdanauForConditionalGeneration
from tests.helpers.batches import batch, source
from tests.helpers.changed_models import CLOSE
from tests.helpers.tiny_model import make_config

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")

TABLES = {
    "tied, two vocabularies": {"tie_word_embeddings": True},  # as in recipes/base.yaml
    "tied, one vocabulary": {"tie_word_embeddings": True, "vocab_size": 17},
    "untied, two vocabularies": {},
    "untied, one vocabulary": {"vocab_size": 17},
}
ON_TABLES = [["lm_head"], ["decoder.embed_tokens"], ["lm_head", "embed_tokens", "query"]]
ELSEWHERE: list[Any] = [
    "all-linear",
    *(
        pytest.param(targets, marks=pytest.mark.slow)
        for targets in (
            ["query", "key"],
            ["score"],
            ["projection"],
            ["bridge.0"],
            ["encoder.embed_tokens"],
        )
    ),
]


def build(tables: str) -> BahdanauForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        changes = TABLES.get(tables, {"conditional_gru": True})
        config = make_config(**{"readout": "deep", **changes})
        model = BahdanauForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.bias[model.config.eos_token_id] -= 2
    return model


def adapt(model: nn.Module, **options: Any) -> PeftModel:
    """Put an adapter on, of random weights; what else is trained is moved as well."""
    config = LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, **options)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return adapted.eval()


def said(model: nn.Module) -> tuple[Tensor, list[list[int]], list[list[int]]]:
    """Logits of known words, and what greedy and beam search write."""
    words = torch.tensor([[1, 6, 12, 3], [1, 7, 0, 0], [1, 4, 4, 9], [1, 10, 5, 0]])
    with torch.no_grad():
        logits = model(**source(), decoder_input_ids=words).logits
    written = [model.generate(**source(), max_new_tokens=8, num_beams=n).tolist() for n in (1, 3)]
    return logits, *written


def assert_says(model: nn.Module, expected: tuple[Tensor, list, list]) -> None:
    logits, *written = said(model)
    assert_close(logits, expected[0], **CLOSE)
    assert written == list(expected[1:])


def check_merging(adapted: PeftModel, folder: Path, expected: tuple[Tensor, list, list]) -> None:
    merged = adapted.merge_and_unload()
    assert_says(merged, expected)
    merged.save_pretrained(folder)
    again = BahdanauForConditionalGeneration.from_pretrained(folder)
    assert_says(again, expected)
    table, head = again.model.decoder.embed_tokens.weight, again.lm_head.weight
    assert again.config.tie_word_embeddings == (head is table)


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("targets", ELSEWHERE, ids=str)
def test_merged_saved_and_loaded(tables: str, targets: Any, tmp_path: Path) -> None:
    model = build(tables)
    before = said(model)
    adapted = adapt(model, target_modules=targets)
    expected = said(adapted)
    assert not torch.allclose(expected[0], before[0], atol=1e-3)
    check_merging(adapted, tmp_path, expected)
    again = BahdanauForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.tie_word_embeddings == tables.startswith("tied")


@pytest.mark.parametrize(
    "tables",
    [
        "untied, two vocabularies",
        pytest.param("untied, one vocabulary", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("targets", ON_TABLES, ids=str)
def test_adapters_of_untied_tables(tables: str, targets: list[str], tmp_path: Path) -> None:
    adapted = adapt(build(tables), target_modules=targets)
    check_merging(adapted, tmp_path, said(adapted))


@pytest.mark.parametrize("targets", ON_TABLES, ids=str)
def test_adapters_of_one_of_two_tied_modules(targets: list[str], tmp_path: Path) -> None:
    """Merged, PEFT says beforehand, both change; but what is saved is what is loaded."""
    adapted = adapt(build("tied, two vocabularies"), target_modules=targets)
    with pytest.warns(UserWarning, match="tied_target_modules"):
        merged = adapted.merge_and_unload()
    expected = said(merged)
    merged.save_pretrained(tmp_path)
    again = BahdanauForConditionalGeneration.from_pretrained(tmp_path)
    assert_says(again, expected)
    assert again.lm_head.weight is again.model.decoder.embed_tokens.weight


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize(
    "more",
    [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [5, 6]}],
    ids=["modules_to_save", "trainable_token_indices"],
)
def test_what_is_trained_beside_adapters(tables: str, more: dict[str, Any], tmp_path: Path) -> None:
    model = build(tables)
    adapted = adapt(model, target_modules=["projection"], **more)
    check_merging(adapted, tmp_path, said(adapted))


def test_a_whole_new_head_is_tied_no_more(tmp_path: Path) -> None:
    adapted = adapt(
        build("tied, two vocabularies"), target_modules=["projection"], modules_to_save=["lm_head"]
    )
    adapted.merge_and_unload().save_pretrained(tmp_path)
    again = BahdanauForConditionalGeneration.from_pretrained(tmp_path)
    assert not again.config.tie_word_embeddings
    assert not torch.equal(again.lm_head.weight, again.model.decoder.embed_tokens.weight)


@pytest.mark.parametrize(
    "options",
    [
        {"target_parameters": ["transition.weight_ih", "transition.weight_hh"]},
        {"target_parameters": ["layers.0.weight_ih"]},
        {"target_modules": ["projection"], "modules_to_save": ["transition"]},
    ],
    ids=str,
)
def test_cells_are_adapted(options: dict[str, Any], tmp_path: Path) -> None:
    """Those of the decoder with two transitions, by their parameters or as they are."""
    model = build("two transitions")
    before = said(model)
    adapted = adapt(model, **options)
    expected = said(adapted)
    assert not torch.allclose(expected[0], before[0], atol=1e-3)
    check_merging(adapted, tmp_path, expected)


@pytest.mark.parametrize("tables", ["tied, two vocabularies", "untied, one vocabulary"])
def test_an_adapter_saved_alone(tables: str, tmp_path: Path) -> None:
    targets = ["query", "score", "projection", "lm_head", "embed_tokens"]
    adapted = adapt(build(tables), target_modules=targets)
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(build(tables), tmp_path)
    assert_says(again.eval(), said(adapted))


@pytest.mark.parametrize("skip_logits", [False, True])
@pytest.mark.parametrize("tables", ["tied, two vocabularies", "untied, one vocabulary"])
def test_training_reaches_everything(tables: str, skip_logits: bool) -> None:
    adapted = adapt(
        build(tables),
        target_modules=["query", "key", "score", "projection", "bridge.0", "lm_head"],
        trainable_token_indices={"encoder.embed_tokens": [5, 9], "decoder.embed_tokens": [4, 10]},
    ).train()
    frozen = {n: p.detach().clone() for n, p in adapted.named_parameters() if not p.requires_grad}
    trained = [(n, p) for n, p in adapted.named_parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([p for _, p in trained], lr=0.003)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = adapted(**batch(), skip_logits=skip_logits).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    for name, parameter in trained:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert all(torch.equal(adapted.get_parameter(name), p) for name, p in frozen.items())
