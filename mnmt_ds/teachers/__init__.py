"""Frozen teachers: which model teaches which language pair, and where its weights are."""
