import torch

LABELS = torch.tensor([[5, 6, 7, 3], [8, 3, -100, -100]])


def read(exercise, model, labels):
    config = model.config
    return exercise.decoder_input(labels, config.decoder_start_token_id, config.pad_token_id)


def test_no_step_reads_what_it_has_to_write(exercise, model):
    other = LABELS.clone()
    other[:, 1] = 9
    reads, reads_other = read(exercise, model, LABELS), read(exercise, model, other)
    assert torch.equal(reads[:, :2], reads_other[:, :2]), (
        "step 1 reads label 1, the very token that it has to write"
    )


def test_the_input_is_the_models(exercise, model):
    expected = model.prepare_decoder_input_ids_from_labels(LABELS)
    assert torch.equal(read(exercise, model, LABELS), expected)
