import pytest
import torch

SOURCE = torch.tensor([[5, 9, 6, 7, 3]])


def test_the_score_is_that_of_the_translation(exercise, model):
    words, total = exercise.beam_search(model, SOURCE, num_beams=3, num_tokens=6)
    logits = model(input_ids=SOURCE, labels=words[None]).logits[0]
    right = float(logits.log_softmax(dim=-1).gather(1, words[:, None]).sum())
    assert total == pytest.approx(right), (
        f"the search counts {total:.3f} for what the model gives {right:.3f}: "
        "a beam goes on from the state of another"
    )


def test_the_translation_is_the_models(exercise, model, endless):
    words, _ = exercise.beam_search(model, SOURCE, num_beams=3, num_tokens=6)
    expected = model.generate(SOURCE, generation_config=endless, num_beams=3)[0, 1:]
    assert words.tolist() == expected.tolist()
