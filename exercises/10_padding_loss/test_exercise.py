import pytest
import torch

SOURCE = torch.tensor([[5, 9, 6, 7, 3], [8, 4, 11, 2, 3]])
LABELS = torch.tensor([[4, 5, 6, 7, 8, 3], [9, 3, -100, -100, -100, -100]])


def test_more_padding_changes_nothing(exercise, model):
    logits = model(input_ids=SOURCE, labels=LABELS).logits
    padded = torch.nn.functional.pad(LABELS, (0, 6), value=-100)
    before = float(exercise.loss(logits, LABELS))
    after = float(exercise.loss(torch.cat([logits, logits], dim=1), padded))
    assert after == pytest.approx(before), (
        f"with more padding behind the same labels the loss is {after:.3f}, not {before:.3f}"
    )


def test_the_loss_is_the_models(exercise, model):
    output = model(input_ids=SOURCE, labels=LABELS)
    assert float(exercise.loss(output.logits, LABELS)) == pytest.approx(float(output.loss))
