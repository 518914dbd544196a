"""How a model is spread over ranks: ZeRO, pipeline stages, vocabulary shards; DeepSpeed engines and their state."""
