"""mnmt_ds: multilingual translation models trained with DeepSpeed and per-pair distillation."""

__version__ = "0.1.0"
