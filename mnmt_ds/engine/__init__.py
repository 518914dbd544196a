"""Training: students on DeepSpeed engines, validation, checkpoints, the loop."""
