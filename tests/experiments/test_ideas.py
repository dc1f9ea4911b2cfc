"""The parts that ideas put in place of the package's, each against its definition, and the page."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F

from bahdanau_hf import Translator, train_tokenizer
from bahdanau_hf.alignment.guided_loss import add_best_sources
from bahdanau_hf.data.batching import IGNORED_LABEL, NO_LINK, PairTable
from bahdanau_hf.data.preprocessing import encode_pairs
from bahdanau_hf.modeling import modeling_bahdanau as modeling
from bahdanau_hf.training import step as training_step
from bahdanau_hf.training.arguments import parse_arguments
from experiments import idea_methods as methods
from experiments import ideas
from tests.helpers import tiny_run
from tests.helpers.made_pairs import PAIRS, table, write_tsv
from tests.helpers.tiny_checkpoint import PAIRS as LEARNT
from tests.helpers.tiny_model import make_model


def randomised(module: nn.Module) -> Any:
    """In float64, with values of its own in every parameter, gains and biases too."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter)
    return module


# --- cells ---------------------------------------------------------------------------------------


def normalised(x: Tensor, gain: Tensor) -> Tensor:
    spread = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return gain * (x - x.mean(-1, keepdim=True)) / torch.sqrt(spread + 1e-5)


def test_layer_norm_cell_by_hand() -> None:
    H, cell = 4, randomised(methods.LayerNormCell(3, 4))
    x, s, hold = torch.randn(5, 3).double(), torch.randn(5, 4).double(), torch.randn(5, 1).double()

    def gates(part: Any, value: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        product = value @ weight.T
        both = normalised(product[:, : 2 * H], part.reset_update.weight)
        new = normalised(product[:, 2 * H :], part.new.weight)
        return both[:, :H] + bias[:H], both[:, H:] + bias[H : 2 * H], new + bias[2 * H :]

    x_r, x_z, x_n = gates(cell.of_input, x, cell.weight_ih, cell.bias_ih)
    s_r, s_z, s_n = gates(cell.of_state, s, cell.weight_hh, cell.bias_hh)
    r, z = torch.sigmoid(x_r + s_r), torch.sigmoid(x_z + s_z + hold)
    expected = (1 - z) * torch.tanh(x_n + r * s_n) + z * s
    torch.testing.assert_close(cell(x, s, hold), expected)


def test_layers_take_the_steps_of_their_cells() -> None:
    x, state = torch.randn(6, 2, 3).double(), torch.zeros(2, 4).double()
    for layer_type, cell_type in (
        (methods.LayerNormGRU, methods.LayerNormCell),
        (methods.LoopGRU, modeling.BahdanauGRUCell),
        (modeling.BahdanauGRU, methods.LoopCell),
    ):
        layer, cell, s = randomised(layer_type(3, 4)), cell_type(3, 4).double(), state
        weights = {name.removesuffix("_l0"): x for name, x in layer.state_dict().items()}
        cell.load_state_dict(weights)
        states, last = layer(x)
        for step, found in zip(x, states, strict=True):
            s = cell(step, s)
            torch.testing.assert_close(found, s)
        torch.testing.assert_close(last[0], s)


def test_word_query_by_its_equation() -> None:
    """With V_a at zero it is the plain decoder, and else another word has other weights."""
    with ideas.patched(ideas.IDEAS["word-query"].patches):
        model = randomised(make_model(readout="deep"))
        with pytest.raises(ValueError, match="the paper's one layer"):
            make_model(conditional_gru=True)
    assert model.chosen_implementation(model.model.decoder).name == "reference"
    ids, words = torch.randint(4, 17, (2, 5)), torch.randint(4, 13, (2, 3))
    decoder, read = model.model.decoder, model.model.encoder(ids)
    h, s = read.last_hidden_state, decoder.start_state(read.final_state)[:, 0]
    query = decoder.attention.query(s) + decoder.word(decoder.embed_tokens(words[:, 0]))
    e = decoder.attention.score(torch.tanh(query[:, None] + decoder.attention.key(h)))[..., 0]
    found = model(ids, decoder_input_ids=words, output_attentions=True)
    torch.testing.assert_close(found.cross_attentions[0][:, 0, 0], e.softmax(1))
    nn.init.zeros_(decoder.word.weight)
    plain = make_model(readout="deep")
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(
        model(ids, decoder_input_ids=words).logits, plain(ids, decoder_input_ids=words).logits
    )


@pytest.mark.parametrize("name", ["layer-norm", "word-query"])
def test_a_model_of_an_idea_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    ids, words = torch.randint(4, 17, (2, 5)), torch.randint(4, 13, (2, 6))
    with ideas.patched(ideas.IDEAS[name].patches):
        model = make_model(initializer="orthogonal").float()
        for parameter in model.parameters():
            if parameter.shape == (21, 7):  # recurrent, of every layer and transition
                gate = parameter[:7]
                torch.testing.assert_close(gate @ gate.T, torch.eye(7))
        randomised(model).save_pretrained(tmp_path)
        again = modeling.BahdanauForConditionalGeneration.from_pretrained(tmp_path).double()
    torch.testing.assert_close(
        again(ids, decoder_input_ids=words).logits, model(ids, decoder_input_ids=words).logits
    )
    assert type(make_model().model.decoder) is modeling.BahdanauDecoder, "taken away again"


# --- BPE-dropout ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words() -> tuple[Any, Any]:
    """A tokenizer, and the pairs as a batch, with links."""
    tokenizer = train_tokenizer(*zip(*PAIRS, strict=True), vocab_size=420, lowercase_source=True)
    encoded, _ = encode_pairs(table(PAIRS), tokenizer)
    assert isinstance(encoded, Dataset)
    return tokenizer, PairTable(add_best_sources(encoded))[list(range(len(PAIRS)))]


def test_without_dropout_words_are_cut_as_before(words: Any) -> None:
    tokenizer, batch = words
    again = methods.BpeDropout(tokenizer, 0.0)(batch)
    assert again.keys() == batch.keys()
    assert all(torch.equal(again[name], batch[name]) for name in batch)


def test_dropout_cuts_the_same_text_in_other_ways(words: Any) -> None:
    tokenizer, batch = words
    drop = methods.BpeDropout(tokenizer, 0.4)
    new, other = drop(batch), drop(batch)
    assert not torch.equal(new["input_ids"], other["input_ids"]), "each time anew"
    assert torch.equal(new["labels"], batch["labels"])
    assert new["attention_mask"].sum() > batch["attention_mask"].sum() + len(PAIRS)

    def letters(ids: Tensor, place: int) -> tuple[int, int]:
        """Where a token begins and ends, in letters."""
        tokens = tokenizer.convert_ids_to_tokens(ids)
        start = sum(map(len, tokens[:place]))
        return start, start + len(tokens[place])

    num_moved = 0
    for i, (en, _) in enumerate(PAIRS):
        assert tokenizer.decode(new["input_ids"][i], skip_special_tokens=True) == en.lower()
        assert new["attention_mask"][i].sum() == (new["input_ids"][i] != 0).sum()
        links = (x["best_sources"][i].tolist() for x in (batch, new))
        for before, after in zip(*links, strict=True):
            assert (after == NO_LINK) == (before == NO_LINK)
            if after != NO_LINK:
                start, end = letters(new["input_ids"][i], after)
                assert start <= letters(batch["input_ids"][i], before)[0] < end
                num_moved += after != before
    assert num_moved > 20


# --- two passes that agree -----------------------------------------------------------------------


def test_divergence_is_the_librarys_both_ways() -> None:
    p, q = (torch.randn(5, 7).double() for _ in range(2))
    logs = p.log_softmax(-1), q.log_softmax(-1)
    expected = sum(
        F.kl_div(a, b, reduction="none", log_target=True).sum(-1) / 2 for a, b in (logs, logs[::-1])
    )
    torch.testing.assert_close(methods.divergence(p, q).double(), expected, atol=1e-6, rtol=1e-5)
    assert methods.divergence(p, p + 3).abs().max() < 1e-6


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_two_passes_are_one_where_nothing_is_dropped(tmp_path: Path, dropout: float) -> None:
    rates = {"dropout": dropout, "attention_dropout": 0}
    run = tiny_run.prepare(tmp_path, **rates, guided_attention_weight=0.3)
    batch, _ = next(run.batches.steps(run.state, 1))
    tokens, gradients = int((batch[0]["labels"] != IGNORED_LABEL).sum()), []
    for add_gradient in (training_step._add_gradient, methods.add_agreeing_gradient):
        torch.manual_seed(0)
        loss = add_gradient(run, dict(batch[0]), tokens, 1)
        own = [x.grad.flatten() for x in run.bare_model.parameters() if x.grad is not None]
        gradients.append(torch.cat([loss.flatten(), *own]))
        run.optimizer.zero_grad()
    one_pass, two_passes = gradients
    assert torch.allclose(one_pass, two_passes, atol=1e-5) == (dropout == 0)


# --- minimum risk --------------------------------------------------------------------------------


def test_risk_falls_by_making_cheap_candidates_probable() -> None:
    log_probs = torch.tensor([[-3.0, -1.0, -2.0, -1.0], [-5.0, -5.0, -5.0, -5.0]])
    costs = torch.tensor([[0.0, 0.5, 1.0, 0.5], [0.3, 0.3, 0.3, 0.3]])
    first = torch.tensor([[True, True, True, False], [True] * 4])
    log_probs.requires_grad_()
    risk = methods.expected_cost(log_probs, costs, first)
    share = (0.005 * log_probs[0, :3]).exp()
    torch.testing.assert_close(risk[0], (share * costs[0, :3]).sum() / share.sum())
    risk.sum().backward()
    assert log_probs.grad is not None
    better, middle, worse, double = log_probs.grad[0].tolist()
    assert better < 0 < worse
    assert abs(middle) < 1e-4
    assert double == 0, "the same candidate counts once"
    assert log_probs.grad[1].abs().max() < 1e-9, "all cost the same"


def test_a_step_of_minimum_risk(tmp_path: Path) -> None:
    run = tiny_run.prepare(tmp_path, num_train_epochs=1)
    batch, _ = next(run.batches.steps(run.state, 1))
    model, optimizer = run.bare_model, torch.optim.SGD(run.bare_model.parameters(), 3.0)
    drawn = methods.draw_candidates(run, batch[0])
    assert drawn.shape[1] == methods.NUM_SAMPLES + 1
    reference = drawn[:, -1, : batch[0]["labels"].shape[1]]
    assert torch.equal(reference, batch[0]["labels"])
    costs = methods.candidate_costs(run, drawn.flatten(0, 1), batch[0]["labels"])
    costs = costs.view(drawn.shape[:2])
    assert costs[:, -1].abs().max() < 1e-6
    assert costs[:, :-1].min() > 0.5, "what a fresh model says is wrong"

    def reference_loss() -> float:
        model.eval()
        with torch.no_grad():
            loss = float(model(**batch[0]).loss)
        model.train()
        return loss

    before = reference_loss()
    for _ in range(3):
        tokens = int((batch[0]["labels"] != IGNORED_LABEL).sum())
        methods.add_risk_gradient(run, dict(batch[0]), tokens, 1)
        optimizer.step()
        optimizer.zero_grad()
    assert reference_loss() < before, "the cheapest candidate becomes more probable"


# --- the shortlist -------------------------------------------------------------------------------


def test_shortlist(checkpoint: Path) -> None:
    translator = Translator.from_pretrained(checkpoint, device="cpu")
    encoded, _ = encode_pairs(table(LEARNT), translator.tokenizer)
    ids = encoded["input_ids"], encoded["labels"]
    sources = [source for source, _ in LEARNT]

    def texts(beams: int, **options: Any) -> list[str]:
        return [t.text for t in translator.translate(sources, num_beams=beams, **options)]

    plain = {beams: texts(beams) for beams in (1, 3)}
    size = translator.model.config.vocab_size
    whole = methods.Shortlist(translator.model, *ids, best=1, frequent=size)
    whole.use(True)
    assert {beams: texts(beams) for beams in plain} == plain
    assert set(whole.sizes) == {size}
    short = methods.Shortlist(translator.model, *ids, best=3, frequent=2)
    short.use(True)
    translator.batch_size = 1
    found = texts(1)
    assert max(short.sizes) < size / 4
    for source, text in zip(sources, found, strict=True):
        allowed = short.allowed(torch.tensor(translator.tokenizer(source)["input_ids"]))
        assert set(translator.tokenizer(text_target=text)["input_ids"]) <= {*allowed.tolist()}
    assert sum(a == b for a, b in zip(found, plain[1], strict=True)) > len(found) / 2
    short.use(False)
    assert texts(1) == plain[1]


# --- the table -----------------------------------------------------------------------------------


def result(name: str, seed: int, bleu: float, **more: Any) -> dict[str, Any]:
    scores = {"bleu": bleu, "chrf": 30.0, "bleu_signature": "s", "num_sentences": 905}
    return {
        **{"name": name, "recipe": "tiny", "seed": seed, "cpu_seconds": 60 * seed},
        "machine": {"date": f"day {seed}", "commit": "abc", "processor": "p", "command": "c run x"},
        **{"pairs": 1234, "epochs": 11, "scores": {"1": scores, "5": scores}, "comparison": {}},
        **more,
    }


def test_the_table_compares_with_plain() -> None:
    against = {"seeds": [1, 2], "difference": 1.5, "p_value": 0.04}
    one = {"seeds": [1], "difference": 9.0, "p_value": 0.5}
    speed = {"tokens": 300, "head": 3.0, "whole": 1.2}
    batches = {"1": speed, "64": {**speed, "tokens": 1000}}
    text = ideas.page_text(
        {
            ("tiny", "plain"): [result("plain", 1, 30.0), result("plain", 2, 31.0)],
            ("tiny", "layer-norm"): [
                result("layer-norm", 1, 31.0, comparison={"1": one, "5": one}),
                result(
                    "layer-norm",
                    *(2, 33.0),
                    comparison={"1": against, "5": against},
                    steps={"ratio": 1.1, "ratio_fused": 1.25},
                ),
            ],
            ("tiny", "shortlist"): [
                result("shortlist", 1, 30.0, shortlist={"vocabulary": 1691, "batches": batches})
            ],
        }
    )
    lines = text.splitlines()
    assert "| the paper's decoder (`plain`) | 30.5 ± 0.7 | – | 30.5 ± 0.7 | – | 30.0 ± 0.0" in text
    assert "| 32.0 ± 1.4 | +1.5 (0.040) |" in text
    assert "| 11 | 1.5 | 1.10 × to 1.25 × |" in text
    assert "| 1 | 300 | 1,691 | 3.00 × as fast | 1.20 × as fast |" in text
    assert "seed 1, 2; 1,234 pairs, 905 sentences, `s`; day 2, commit abc, p" in lines[-1]


def test_the_page_shows_what_was_measured(tmp_path: Path, monkeypatch: Any) -> None:
    kept = ideas.PAGE.read_text(encoding="utf-8")
    (tmp_path / "ideas.md").write_text(kept, encoding="utf-8")
    monkeypatch.setattr(ideas, "PAGE", tmp_path / "ideas.md")
    assert ideas.main(["render"]) == 0
    made = (tmp_path / "ideas.md").read_text(encoding="utf-8")
    assert made == kept, "run python -m experiments.ideas render"


def test_seeds_that_both_have_are_compared(tmp_path: Path) -> None:
    right = [zh for _, zh in PAIRS[:20]]
    wrong = [*right[:10], *right[:10]]
    for folder, texts in {
        "tiny-plain-1": wrong,
        "tiny-plain-2": wrong,
        "tiny-further-2": right,
        "tiny-further-3": right,
    }.items():
        (tmp_path / folder).mkdir()
        for beams in ideas.BEAMS:
            file = tmp_path / folder / f"translations-{beams}.json"
            file.write_text(json.dumps(texts), encoding="utf-8")
    args = Namespace(recipe="tiny", output_dir=tmp_path)
    found = ideas.compare("further", args, right, "zh")["5"]
    assert found["seeds"] == [2]
    assert found["difference"] > 10
    assert ideas.compare("plain", args, right, "zh") == {}


def test_each_training_is_told_its_flags(tmp_path: Path, monkeypatch: Any) -> None:
    told: dict[str, Any] = {}

    class Started(Exception):
        pass

    def train(command: list[str], folder: Path, threads: int) -> dict[str, float]:
        assert command[1:4] == ["-m", "experiments.ideas", "train"]
        told[command[4]] = parse_arguments(command[5:])
        raise Started

    monkeypatch.setattr(ideas, "train", train)
    places = ["--output_dir", str(tmp_path), "--results", str(tmp_path), "--seeds", "7"]
    with pytest.raises(SystemExit, match="further goes on from plain, seed 7: run that first"):
        ideas.main(["run", "further", *places])
    with pytest.raises(SystemExit, match="time a step of layer-norm is not known"):
        ideas.main(["run", "layer-norm-equal-time", *places])
    (tmp_path / "tiny-plain-7").mkdir()
    (tmp_path / "tiny-plain-7" / "model.safetensors").touch()
    for name in ("layer-norm", "conditional"):
        of_another_seed = result(name, 8, 30.0, steps={"ratio": 1.25, "ratio_fused": 1.5})
        (tmp_path / f"tiny-{name}-8.json").write_text(json.dumps(of_another_seed))
    trained = [name for name, idea in ideas.IDEAS.items() if idea.trains]
    for name in trained:
        with pytest.raises(Started):
            ideas.main(["run", name, *places, "--learning_rate=0.5"])
    assert list(told) == trained
    for name, (model, data, train_args) in told.items():
        goes_on = name in ("further", "minimum-risk")
        epochs = 8.8 if name.endswith("-equal-time") else 1 if goes_on else 11
        assert train_args.num_train_epochs == epochs
        assert (train_args.seed, train_args.learning_rate) == (7, 0.5), "a flag counts"
        start = str(tmp_path / "tiny-plain-7") if goes_on else None
        assert (model.model_name_or_path, data.train_file) == (start, None)


@pytest.mark.slow
def test_ideas_are_trained_and_scored(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_tsv(tmp_path / f"{split}.tsv", PAIRS)
    places = ["--data", str(tmp_path), "--output_dir", str(tmp_path / "runs")]
    places += ["--results", str(tmp_path / "results"), "--seeds", "1"]
    sizes = ["--hidden_size=8", "--embedding_size=8", "--vocab_size=300", "--num_train_epochs=1"]
    names = ["plain", "conditional", "bpe-dropout-0.1", "minimum-risk", "shortlist"]
    assert ideas.main(["run", *names, *places, *sizes]) == 0
    found = ideas.load_results(tmp_path / "results")
    assert [name for _, name in found] == [name for name in ideas.IDEAS if name in names]
    plain, conditional = found["tiny", "plain"][0], found["tiny", "conditional"][0]
    assert conditional["parameters"] > plain["parameters"]
    assert conditional["steps"]["ratio"] > 0.5
    assert conditional["steps"]["fused_idea"] > 0
    assert found["tiny", "minimum-risk"][0]["comparison"]["5"]["seeds"] == [1]
    assert found["tiny", "shortlist"][0]["scores"]["5"]["num_sentences"] == len(PAIRS)
    assert str(tmp_path) not in json.dumps(plain)
    assert "minimum risk" in ideas.page_text(found)
