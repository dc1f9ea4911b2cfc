"""The library's own training loop and collator, which know the model by its arguments' names."""

import copy
import itertools
import math

import pytest
import torch
from torch.testing import assert_close
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.utils.generic import find_labels

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.checkpoints.save_load import TrainerState
from bahdanau_hf.data.preprocessing import pair_texts
from bahdanau_hf.data.tokenization import clean_text
from bahdanau_hf.inference.translator import Translator
from tests.helpers.oracles import ScalarModel
from tests.helpers.tiny_run import logged, prepare


def features(tokenizer, pairs) -> list[dict[str, list[int]]]:
    return [dict(tokenizer(english, text_target=chinese)) for english, chinese in pairs]


@pytest.fixture
def trainer(tmp_path, tiny_model, tiny_tokenizer, pairs):
    """A function that makes a trainer of a small new model; the same one for the same seed."""

    def make(model_seed: int = 3, **changes) -> Seq2SeqTrainer:
        torch.manual_seed(model_seed)
        model = tiny_model(vocab_size=len(tiny_tokenizer), encoder_vocab_size=None, hidden_size=8)
        options = {
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "max_steps": 2,
            "learning_rate": 0.01,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "seed": 1,
        }
        return Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(str(tmp_path), **(options | changes)),
            train_dataset=features(tiny_tokenizer, pairs),
            eval_dataset=features(tiny_tokenizer, pairs[:6]),
            data_collator=DataCollatorForSeq2Seq(tiny_tokenizer, model=model),
            processing_class=tiny_tokenizer,
        )

    return make


def test_labels_are_what_the_trainer_takes_for_labels() -> None:
    assert find_labels(BahdanauForConditionalGeneration) == ["labels"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_trains(trainer, smoothing) -> None:
    run = trainer(max_steps=12, label_smoothing_factor=smoothing)
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < before - 0.1


def test_evaluation_loss_is_the_oracles(trainer, tiny_tokenizer, pairs) -> None:
    run = trainer(per_device_eval_batch_size=6)
    oracle = ScalarModel(run.model)
    rows = features(tiny_tokenizer, pairs[:6])
    total = math.fsum(oracle.loss(oracle.encode(row["input_ids"]), row["labels"]) for row in rows)
    expected = total / sum(len(row["labels"]) for row in rows)
    assert_close(run.evaluate()["eval_loss"], expected, rtol=1e-5, atol=0)


def test_accumulated_batches_are_one_batch(trainer) -> None:
    """The loss is divided by the tokens of the whole step, so its parts may be of any length."""
    weights = []
    for batch_size, parts in ((8, 1), (2, 4)):
        run = trainer(per_device_train_batch_size=batch_size, gradient_accumulation_steps=parts)
        run.train()
        weights.append(run.model.state_dict())
    for name, x in weights[0].items():
        assert_close(weights[1][name], x, rtol=1e-6, atol=1e-8, msg=name)


def test_predictions_are_generated(trainer, tiny_tokenizer) -> None:
    run = trainer(predict_with_generate=True, generation_max_length=7, generation_num_beams=2)
    result = run.predict(run.eval_dataset)
    assert result.predictions.shape[0] == 6
    assert not result.predictions[:, 7:].any(), "padding, as far as the default length"
    assert "test_loss" in result.metrics


def test_collator_shifts_with_the_model(tiny_model, tiny_tokenizer, pairs) -> None:
    model = tiny_model(vocab_size=len(tiny_tokenizer), encoder_vocab_size=None)
    rows = features(tiny_tokenizer, pairs[:3])
    made = DataCollatorForSeq2Seq(tiny_tokenizer, model=model)(rows)
    assert (made["decoder_input_ids"][:, 0] == 1).all()
    real = made["labels"] != -100
    shifted = made["decoder_input_ids"][:, 1:]
    assert torch.equal(shifted[real[:, :-1]], made["labels"][:, :-1][real[:, :-1]])
    assert (shifted[~real[:, :-1]] == 0).all()


def test_the_numbers_are_those_of_our_own_training(tmp_path) -> None:
    """The same pairs in the same order, from the same weights: the same losses and weights."""
    steps = {"max_train_steps": 4, "learning_rate": 0.01, "lr_scheduler_type": "constant"}
    steps["adam_epsilon"] = 1e-4  # a smaller one makes much of the rounding of tiny gradients
    no_chance = {"dropout": 0, "attention_dropout": 0, "max_grad_norm": 0.3, "seed": 14}
    evaluation = {"per_device_eval_batch_size": 64, "eval_steps": 4}
    run = prepare(tmp_path / "ours", **steps, **no_chance, **evaluation)
    theirs = copy.deepcopy(run.bare_model)
    rows = []
    for (batch,), _ in itertools.islice(run.batches.steps(TrainerState(), 1), 4):
        assert len(batch["labels"]) == 8
        for source, mask, target in zip(
            batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        ):
            rows.append(
                {"input_ids": source[mask == 1].tolist(), "attention_mask": [1] * mask.sum()}
            )
            rows[-1]["labels"] = target[target != -100].tolist()
    run.train()
    ours = logged(tmp_path / "ours")

    options = {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 64,
        "train_sampling_strategy": "sequential",
        "max_steps": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.3,
        "adam_epsilon": 1e-4,
        "logging_steps": 1,
        "logging_first_step": True,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "predict_with_generate": True,
        "generation_num_beams": 1,
    }
    trainer = Seq2SeqTrainer(
        model=theirs,
        args=Seq2SeqTrainingArguments(str(tmp_path / "theirs"), **options),
        train_dataset=rows,
        eval_dataset=run.pairs.encoded["validation"],
        data_collator=DataCollatorForSeq2Seq(run.tokenizer, model=theirs),
        processing_class=run.tokenizer,
    )
    trainer.train()
    for name in ("loss", "grad_norm"):
        values = [line[name] for line in trainer.state.log_history if name in line]
        assert values == pytest.approx([line[name] for line in ours if name in line], rel=1e-4)
        assert len(values) == 4
    for name, x in run.bare_model.state_dict().items():
        assert_close(theirs.state_dict()[name], x, rtol=1e-4, atol=1e-6, msg=name)

    result = trainer.predict(run.pairs.encoded["validation"])
    assert result.metrics["test_loss"] == pytest.approx(ours[-1]["eval_loss"], rel=1e-5)
    ids = [[i for i in row if i >= 0] for row in result.predictions.tolist()]
    texts = map(clean_text, run.tokenizer.batch_decode(ids, skip_special_tokens=True))
    sources, _ = pair_texts(run.pairs.texts["validation"], "en", "zh")
    expected = Translator(run.bare_model, run.tokenizer).translate(sources, num_beams=1)
    assert list(texts) == [translation.text for translation in expected]
    assert len({translation.text for translation in expected}) > 1
