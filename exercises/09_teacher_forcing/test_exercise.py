import torch

SOURCE = torch.tensor([[5, 9, 6, 7, 3], [8, 4, 11, 2, 3]])
LABELS = torch.tensor([[4, 5, 6, 7, 8, 3], [9, 8, 7, 6, 5, 3]])


def test_the_reference_does_not_matter(exercise, model):
    one = exercise.translate(model, SOURCE, LABELS)
    other = exercise.translate(model, SOURCE, LABELS.flip(0))
    assert torch.equal(one, other), (
        "another reference gives another translation: the decoder has read the answer"
    )


def test_the_translation_is_the_models(exercise, model, endless):
    expected = model.generate(SOURCE, generation_config=endless)[:, 1:]
    assert torch.equal(exercise.translate(model, SOURCE, LABELS), expected)
