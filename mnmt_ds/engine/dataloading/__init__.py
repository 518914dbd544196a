"""Training data of a student: the sampled corpus epoch by epoch, and the iterator over its updates."""
