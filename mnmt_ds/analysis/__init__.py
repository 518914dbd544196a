"""Which parameters serve which language: sensitivity, specificity, correlation, pruning (paper 3, Sections 2 and 3)."""
