"""Beam search and translation of many sentences; loading a trained model with its tokenizer."""
