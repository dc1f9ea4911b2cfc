"""A score for translations into Chinese."""

from sacrebleu.metrics import BLEU


def bleu(translations: list[str], references: list[str]) -> float:
    """Return corpus BLEU, 0 to 100."""
    return BLEU(tokenize="zh").corpus_score(translations, [references]).score
