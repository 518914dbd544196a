"""What a model directory says of itself."""

from typing import Any

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.recipe import Recipe


def model_description(recipe: Recipe, corpus: Corpus) -> dict[str, Any]:
    """Collects what a model directory records of its model.

    Args:
        recipe: of the student.
        corpus: that it is trained on.

    Returns:
        JSON values.
    """
    averaged = {"ema_decay": recipe.train.ema_decay} if recipe.train.ema_decay else {}
    return averaged | {
        "model": recipe.model.model_dump(mode="json", exclude={"init"}),
        "vocabulary_size": corpus.tokenizer.size,
        "framing": recipe.framing.model_dump(mode="json"),
        "pairs": list(recipe.data.pairs),
        "tokenizer_hash": corpus.tokenizer.hash,
        "data_hash": corpus.hash,
        "dev_sets": {pair: corpus.text_hash(pair, "dev") for pair in recipe.data.pairs},
        "sentencepiece": corpus.manifest.get("sentencepiece"),
    }
