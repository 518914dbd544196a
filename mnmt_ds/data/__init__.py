"""Corpora: from raw text to batches."""
