"""M2M100's names and numbers."""

import pytest
import torch

from mnmt_ds.batch import EOS, PAD
from mnmt_ds.bench.decoding import hf_model, random_sources
from mnmt_ds.models.export import m2m100_names, to_m2m100
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise

SETTINGS = ModelSettings(d_model=32, heads=4, ffn=48, encoder_layers=3, decoder_layers=2)


def make_model(settings: ModelSettings = SETTINGS) -> Transformer:
    torch.manual_seed(0)
    model = initialise(Transformer(settings, 70)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def from_m2m100(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our weights, without tied repeats, out of transformers' of the same shape."""
    return {
        name: torch.cat([state[target] for target in targets])
        for name, targets in m2m100_names(SETTINGS, state).items()
    }


@pytest.mark.parametrize("share", ["all", "decoder"])
def test_logits_equal_m2m100(share: str) -> None:
    model = make_model(SETTINGS.model_copy(update={"share_embeddings": share}))
    source_BS, decoder_BT = random_sources(6, 70), torch.randint(4, 70, (6, 9))
    with torch.inference_mode():
        ours = model.head(model(source_BS, decoder_BT).decoder_BTD)
        theirs = hf_model(model, EOS)(
            input_ids=source_BS, attention_mask=(source_BS != PAD).long(), decoder_input_ids=decoder_BT
        ).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_there_and_back() -> None:
    state = state_of(make_model())
    back = from_m2m100(to_m2m100(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_reads_a_transformers_model() -> None:
    """From a model that transformers made: its own names, tied repeats included."""
    peer = hf_model(make_model(), EOS)
    torch.manual_seed(5)
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = make_model()
    model.load_state_dict(from_m2m100(dict(peer.state_dict())), strict=False)
    source_BS, decoder_BT = random_sources(4, 70), torch.randint(4, 70, (4, 5))
    with torch.inference_mode():
        ours = model.head(model(source_BS, decoder_BT).decoder_BTD)
        theirs = peer(
            input_ids=source_BS, attention_mask=(source_BS != PAD).long(), decoder_input_ids=decoder_BT
        ).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_projection_of_the_encoders_own_is_left_out() -> None:
    shape = ModelSettings(preset="tiny", d_model=16, ffn=32, heads=2, encoder_layers=1, decoder_layers=1)
    own = Transformer(shape.model_copy(update={"encoder_projection": "own"}), 30)
    state = dict(own.named_parameters())
    assert "encoder_projection.weight" in state
    assert to_m2m100(state).keys() == to_m2m100(dict(Transformer(shape, 30).named_parameters())).keys()
