"""How much of each language pair an epoch holds."""
