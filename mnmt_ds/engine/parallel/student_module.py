"""The module that DeepSpeed wraps where every rank has all layers.

Shape letters: B sentences, T target positions, D model width, V words.
"""

from typing import Any

from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.engine.parallel.engine import LossFunction
from mnmt_ds.models.transformer import Transformer


class StudentModule(nn.Module):
    """A model whose forward pass goes from a batch to its loss.

    The loss is taken inside the output projection's own forward: at ZeRO-3 the projection's weight is whole only there.
    """

    def __init__(self, model: Transformer) -> None:
        """Wraps a model.

        Args:
            model: with its first weights.
        """
        super().__init__()
        self.model = model
        self.universal_checkpoint_info: Any = {}  # lets DeepSpeed's checkpoints be read by another layout
        self.register_state_dict_post_hook(_without_frozen)

    def forward(self, batch: Batch, compute_loss: LossFunction) -> Any:
        """Runs the model on a batch and scores its states.

        Args:
            batch: on the model's device.
            compute_loss: from states, projection (V, D) and batch to what is wanted.

        Returns:
            What ``compute_loss`` returns, as a tuple.
        """
        states = self.model(batch.source_BS, batch.decoder_BT, batch.passes if batch.shared_memory else 1)
        encoder_projection = self.model.encoder_projection

        def score_states(hidden_BTD: Tensor, projection_VD: Tensor, encoder_VD: Tensor | None = None) -> Any:
            whole = states._replace(decoder_BTD=hidden_BTD, encoder_projection_VD=encoder_VD)
            return tuple(compute_loss(whole, projection_VD, batch))

        if encoder_projection is None:
            return self.model.head(states.decoder_BTD, score_states)

        def score_with_encoder(encoder_VD: Tensor) -> Any:
            return self.model.head(
                states.decoder_BTD,
                lambda hidden_BTD, projection_VD: score_states(hidden_BTD, projection_VD, encoder_VD),
            )

        return encoder_projection(score_with_encoder)


def _without_frozen(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any]) -> None:
    """Leaves weights that are not trained out of checkpoints, under all names of a tied one."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)
