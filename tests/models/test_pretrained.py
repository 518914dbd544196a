"""Models of transformers' M2M100: same logits, losses and gradients here; every fault of a directory is one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.data.framing import FramingSettings, frame_of
from mnmt_ds.data.loader import collate
from mnmt_ds.errors import UserError
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.models.export import to_m2m100
from mnmt_ds.models.pretrained import TIED_MATRICES, WeightSource, fill, open_weights
from mnmt_ds.models.transformer import Transformer
from tests.pretrained import write_model

FAMILY = FramingSettings(decoder_langtok_position="after_end")
LEGACY = FramingSettings(encoder_langtok_position="after_end", decoder_langtok_position="after_end")
VARIANTS: dict[str, dict[str, Any]] = {
    "m2m_100": {"family": "m2m_100"},
    "nllb_sharded": {"family": "nllb", "max_shard_size": "20KB"},
    "unscaled": {"family": "m2m_100", "scale_embedding": False},
    "untied": {"family": "m2m_100", "tie_word_embeddings": False},
    "bf16": {"family": "m2m_100", "dtype": "bfloat16"},
    "fp16": {"family": "m2m_100", "dtype": "float16"},
}


class RandomPairs:
    """Sentence pairs of random pieces."""

    def pieces(self, index: int) -> tuple[Any, Any]:
        draw = torch.Generator().manual_seed(index)
        source, target = (torch.randint(4, 2000, (3 + (index + side) % 5,), generator=draw) for side in (0, 1))
        return source.numpy(), target.numpy()


def loaded(source: WeightSource) -> Transformer:
    model = Transformer(source.settings.model_copy(update={"attention_dropout": 0.0}), source.vocabulary_size).eval()
    assert fill(model, source) == []
    return model


def batch_of(framing: FramingSettings, source_tag: int, target_tag: int) -> Batch:
    return collate(RandomPairs(), range(5), frame_of(framing, source_tag, target_tag), 0, 1)


@pytest.mark.parametrize(("variant", "framing"), [*((name, FAMILY) for name in VARIANTS), ("nllb_sharded", LEGACY)])
def test_logits_loss_and_gradients_are_transformers(variant: str, framing: FramingSettings, tmp_path: Path) -> None:
    check_parity(
        write_model(tmp_path / "model", **VARIANTS[variant]), framing, ((2003, 2017), (2017, 2003), (2050, 2003))
    )


@pytest.mark.slow
@pytest.mark.parametrize(("family", "size"), [("m2m_100", 128112), ("nllb", 256206)])
def test_whole_vocabularies(family: str, size: int, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", family, vocab_size=size)
    check_parity(directory, FAMILY, ((size - 100, size - 10), (size - 10, size - 100)))


def check_parity(directory: Path, framing: FramingSettings, pairs: tuple[tuple[int, int], ...]) -> None:
    """Logits, loss and gradients of random batches with these tags, ours and transformers'."""
    from transformers import M2M100ForConditionalGeneration

    peer = M2M100ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    model = loaded(open_weights(directory))
    for tags in pairs:
        batch = batch_of(framing, *tags)
        states = model(batch.source_BS, batch.decoder_BT)
        loss = ce_with_teacher(states.decoder_BTD, model.head.weight, batch.target_BT, smoothing=0.0).loss
        (loss / batch.tokens).backward()
        labels = batch.target_BT.masked_fill(batch.target_BT == PAD, -100)
        theirs = peer(input_ids=batch.source_BS, attention_mask=(batch.source_BS != PAD).long(), labels=labels)
        theirs.loss.backward()
        counted = batch.target_BT != PAD
        logits = model.head(states.decoder_BTD)
        torch.testing.assert_close(logits[counted], theirs.logits[counted], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(loss / batch.tokens, theirs.loss, atol=0, rtol=1e-5)
        gradients = to_m2m100({name: parameter.grad for name, parameter in model.named_parameters()})
        theirs_by_name = {name: parameter.grad for name, parameter in peer.named_parameters()}
        largest = max(float(gradient.abs().max()) for gradient in theirs_by_name.values() if gradient is not None)
        for name, gradient in theirs_by_name.items():
            if gradient is not None:  # an untied model's shared matrix is used nowhere
                torch.testing.assert_close(gradients[name], gradient, atol=1e-6 * largest, rtol=1e-5, msg=name)
        model.zero_grad()
        peer.zero_grad()


def edited(directory: Path, **values: Any) -> None:
    """Changes config.json; None removes a value."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("published") / "m2m", "m2m_100")


@pytest.fixture
def directory(published: Path, tmp_path: Path) -> Path:
    """A copy of weights and configuration, to be damaged."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((published / name).read_bytes())
    return tmp_path


def message(directory: Path) -> str:
    with pytest.raises(UserError) as error:
        open_weights(directory)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "mbart"}, "mbart cannot be used: its positions are learned"),
        ({"model_type": "nllb-moe"}, "nllb-moe cannot be used: its layers are mixtures of experts"),
        ({"model_type": "t5"}, "t5 cannot be used: its attention has relative positions"),
        ({"model_type": "opus"}, "opus cannot be used; M2M-100 and dense NLLB-200"),
        ({"model_type": None}, "no model_type cannot be used"),
        ({"activation_function": "gelu", "pad_token_id": 0}, "activation_function is 'gelu', must be 'relu'; pad"),
        ({"decoder_start_token_id": 250004}, "decoder_start_token_id is 250004, must be 2"),
        ({"decoder_attention_heads": 4}, "decoder_attention_heads is 4, must be 2"),
        ({"d_model": None}, "'d_model' is missing"),
        ({"d_model": 15}, "d_model 15 must be even"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused(directory: Path, values: dict[str, Any], words: str) -> None:
    edited(directory, **values)
    assert words in message(directory)


def test_all_faults_of_tensors_are_listed_at_once(directory: Path) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    del state["model.encoder.layers.0.self_attn.q_proj.weight"], state["model.decoder.layer_norm.bias"]
    state["model.encoder.layers.9.fc1.bias"] = torch.zeros(3)
    state["model.decoder.layers.1.fc2.weight"] = torch.zeros(16, 25)
    state["model.encoder.layers.1.fc2.bias"] = torch.zeros(16, dtype=torch.int8)
    save_file(state, path)
    line = message(directory)
    assert "missing model.decoder.layer_norm.bias, model.encoder.layers.0.self_attn.q_proj.weight" in line
    assert "unknown model.encoder.layers.9.fc1.bias" in line
    assert "model.decoder.layers.1.fc2.weight has shape (16, 25), wanted (16, 24)" in line
    assert "model.encoder.layers.1.fc2.bias is I8, wanted one of F32, F16, BF16" in line


def test_another_vocabulary_is_refused(directory: Path) -> None:
    edited(directory, vocab_size=2000)
    assert "model.shared.weight has shape (2109, 16), wanted (2000, 16)" in message(directory)


def test_old_directories_hold_tensors_that_no_model_needs(directory: Path) -> None:
    """Position tables, version marks and tied repeats, as transformers 4 wrote them."""
    path = directory / "model.safetensors"
    before = open_weights(directory)
    weights = {name: before.read(name).clone() for name in before.parts}
    state = {name: value.clone() for name, value in load_file(path).items()}  # the file is written over
    state |= {f"model.{side}.embed_positions.weights": torch.zeros(66, 16) for side in ("encoder", "decoder")}
    state |= {
        f"model.{side}.embed_tokens.weight": state["model.shared.weight"].clone() for side in ("encoder", "decoder")
    }
    state["lm_head.weight"] = state["model.shared.weight"].clone()
    save_file(state, path)
    after = open_weights(directory)
    assert all(torch.equal(after.read(name), value) for name, value in weights.items())
    del state["model.shared.weight"]
    save_file(state, path)
    after = open_weights(directory)
    assert all(torch.equal(after.read(name), value) for name, value in weights.items())


@pytest.mark.parametrize("name", ["lm_head.weight", "model.encoder.embed_tokens.weight", "model.shared.weight"])
def test_embeddings_that_were_trained_apart(directory: Path, name: str) -> None:
    """What a fine-tuning has untied and the configuration still ties is refused, and read once it says so."""
    path = directory / "model.safetensors"
    state = load_file(path)
    tied = state["model.shared.weight"].clone()
    state |= {repeat: tied.clone() for repeat in ("model.decoder.embed_tokens.weight", "lm_head.weight")}
    state |= {name: tied + 1}
    save_file(state, path)
    assert "holds other values than model.shared.weight, though config.json ties them" in message(directory)
    assert '"tie_word_embeddings": false' in message(directory)
    edited(directory, tie_word_embeddings=False)
    source = open_weights(directory)
    read = {
        our: (source.read(our) - tied).mean().round().item()
        for our in source.parts
        if source.parts[our][0] in TIED_MATRICES
    }
    assert read == {
        "embedding.weight": 0.0,
        "source_embedding.weight": float(name != "lm_head.weight"),
        "head.weight": float(name == "lm_head.weight"),
    }


def test_a_single_file_beside_an_older_index(directory: Path) -> None:
    """transformers leaves the index of shards there when it saves anew in one file, and reads the file."""
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "gone.safetensors"}}')
    assert open_weights(directory).read("embedding.weight").shape[1] == 16


def test_files_that_are_not_whole(directory: Path) -> None:
    path = directory / "model.safetensors"
    content = path.read_bytes()
    for part in (b"", content[:5], content[: len(content) // 2], b"junk" * 99):
        path.write_bytes(part)
        assert f"{path}: not a whole safetensors file" in message(directory)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{path}: a Git LFS pointer" in message(directory)
    path.unlink()
    assert f"{directory}: no model.safetensors there" in message(directory)
    (directory / "pytorch_model.bin").write_bytes(b"")
    assert f"{directory}: pytorch_model.bin is pickled" in message(directory)
    assert f"M.from_pretrained('{directory}').save_pretrained" in message(directory)
    (directory / "config.json").write_text("{")
    assert "config.json: not a readable configuration" in message(directory)
    (directory / "config.json").unlink()
    assert f"{directory}: neither config.json nor model.json there" in message(directory)


def test_half_of_the_shards(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "sharded", "nllb", max_shard_size="20KB")
    shards = sorted(directory.glob("*-of-*.safetensors"))
    assert len(shards) > 2
    for shard in shards[1:3]:
        shard.unlink()
    line = message(directory)
    assert f"2 of {len(shards)} shards are missing ({shards[1].name}, {shards[2].name})" in line
    index = directory / "model.safetensors.index.json"
    index.write_text('{"weight_map": []}')
    assert f"{index}: not an index of shards" in message(directory)


def test_layerdrop_is_ignored_with_a_line(directory: Path) -> None:
    edited(directory, encoder_layerdrop=0.05, decoder_layerdrop=0.0)
    assert open_weights(directory).notes == (
        f"{directory / 'config.json'}: encoder_layerdrop 0.05 ignored: no layer is dropped",
    )
