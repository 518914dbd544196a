"""Losses, norms and weights of a fixed list of small trainings: proof that a change of the code changes no number."""
