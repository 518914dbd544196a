"""Beam search, translation of files, scores and comparisons between runs."""
