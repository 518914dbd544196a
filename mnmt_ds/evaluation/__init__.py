"""Scores of translations: BLEU, chrF, significance, evaluation reports."""
