"""Measurements: memory, throughput, kernels, decoding; results are dated files."""
