import pytest

from bahdanau_hf.metrics import score_translations

TRANSLATIONS = ["我想要两张去北京的票。", "她在医院工作。", "明天会下雨吗？"]
REFERENCES = ["我想买两张去北京的票。", "她在一家医院工作。", "明天会下雨吗？"]


def test_a_single_wrong_character_does_not_cost_the_whole_sentence(exercise):
    score = exercise.bleu(TRANSLATIONS[:1], REFERENCES[:1])
    assert score > 50, f"one character of eleven is wrong, and BLEU is {score:.1f}"


def test_the_score_is_the_packages(exercise):
    expected = score_translations(TRANSLATIONS, REFERENCES, target_lang="zh").bleu
    assert exercise.bleu(TRANSLATIONS, REFERENCES) == pytest.approx(expected)
