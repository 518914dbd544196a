"""Encoder-decoder Transformer with M2M100's architecture."""
