"""Where a model's first weights come from: a transformers directory of M2M-100's architecture, or one of ours.

Weights are read by our names, one at a time or some rows of one, from mapped files; see ``WeightSource.read``.

Letters: V words, D width.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mnmt_ds.batch import BOS, EOS, PAD
from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import CHECKSUM, with_checksum
from mnmt_ds.files import refuse_pointer, sha256, write_json
from mnmt_ds.json_files import read_json, reason
from mnmt_ds.models.export import m2m100_names, m2m100_tensors
from mnmt_ds.models.frozen import VOCABULARY_WEIGHTS
from mnmt_ds.models.lora import A, B, is_adapter, merged
from mnmt_ds.models.settings import LoraSettings, ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.vocab_parallel import VocabShard, is_vocab_sharded
from mnmt_ds.models.weight_files import NAMES, WeightFiles, write_weights
from mnmt_ds.models.weights import describe_model, weights_identity

SHAPE = (
    "d_model", "ffn", "heads", "encoder_layers", "decoder_layers", "share_embeddings", "scale_embedding",
)  # fmt: skip
"""Settings of a model that its weights decide."""
CARRIED = (*SHAPE, "max_positions")
"""Settings that a model takes from its first weights where the recipe does not give them."""
OTHERS = {
    "mbart": "its positions are learned, here they are sinusoidal",
    "nllb-moe": "its layers are mixtures of experts, here they are dense",
    "t5": "its attention has relative positions and no biases",
    "mt5": "its attention has relative positions and no biases",
    "marian": "its norms come after the layers",
    "bart": "its positions are learned, here they are sinusoidal",
    "seamless_m4t": "only its text model is of this architecture, under other names",
}
"""Kinds of models that people may try, and why they cannot be used."""
TIED_MATRICES = (
    "model.shared.weight", "model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight", "lm_head.weight",
)  # fmt: skip
"""Names of M2M100's one matrix where embeddings are tied."""
ROWS_AT_ONCE = 16384
"""Rows that are compared at a time."""
UNUSED = ("embed_positions.weights", "encoder.version", "decoder.version", "final_logits_bias")
"""Ends of names that old directories hold and no model needs: position tables and version marks."""


class WeightSource(NamedTuple):
    """Weights of a model on disk, read by the names of our weights."""

    directory: Path
    settings: ModelSettings
    vocabulary_size: int
    files: WeightFiles
    parts: Mapping[str, tuple[str, ...]]
    """Names of the tensors that one of our weights consists of, stacked by rows."""
    notes: tuple[str, ...] = ()
    """What of the directory is not used, a line each."""
    words: Callable[[str, slice], Tensor] | None = None
    """Reads rows of a matrix over another vocabulary than the files'; None: as in the files."""
    lora: LoraSettings | None = None
    """The files' adapters, which are merged into the weights that are read; None: they have none."""

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Reads one of our weights.

        Args:
            name: of the weight in our model.
            rows: of these only; None: all.

        Returns:
            On the CPU, in the file's type; of adapted maps the sum with their adapters.
        """
        if self.words is not None and name in VOCABULARY_WEIGHTS:
            return self.words(name, rows or slice(0, self.vocabulary_size))
        parts = [self.files.read(part, rows) for part in self.parts[name]]
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        adapters = [name.removesuffix(".weight") + end for end in (A, B)] if self.lora is not None else []
        if self.lora is None or adapters[0] not in self.files.facts:
            return value
        state = {adapter: self.files.read(adapter) for adapter in adapters}
        return merged(value, name, state, self.lora).to(value.dtype)

    def shapes(self) -> dict[str, torch.Size]:
        """Lists the weights.

        Returns:
            Shapes by our names, of those that the directory holds.
        """
        whole = expected_shapes(self.settings, self.vocabulary_size)
        return {name: whole[name] for name in self.parts}

    def dtype(self, name: str) -> torch.dtype:
        """Looks up a weight's dtype.

        Args:
            name: of the weight in our model.

        Returns:
            float32, float16 or bfloat16.
        """
        written = self.files.facts[self.parts[name][0]].dtype
        return next(dtype for dtype, text in NAMES.items() if text == written)


def open_weights(directory: Path) -> WeightSource:
    """Opens a directory that holds a model, and checks every tensor's name, shape and type.

    Args:
        directory: a transformers directory of M2M-100 or dense NLLB-200, or one of our model directories.

    Returns:
        The source; no weight is read yet.

    Raises:
        UserError: where it is of another architecture, incomplete, or its tensors are not those of its configuration.
    """
    if (directory / "model.json").exists():
        return _open_own(directory)
    path = directory / "config.json"
    if not path.exists():
        raise UserError(f"{directory}: neither config.json nor model.json there; give a model's directory, or a run")
    config = read_config(path)
    files = WeightFiles(directory)
    settings, notes = settings_of(config, path)
    names = m2m100_names(settings, files.facts)
    source = WeightSource(directory, settings, int(config["vocab_size"]), files, names, notes)
    _check_tensors(source, tied_repeats=settings.share_embeddings == "all")
    if settings.share_embeddings == "all":
        _check_repeats(source)
    return source


def with_vocabulary(source: WeightSource, rows: Sequence[int], new_rows: Mapping[int, tuple[int, ...]]) -> WeightSource:
    """Reads a model under another vocabulary: some of its words, in any order, and new ones.

    Args:
        source: the model.
        rows: of each id its id in the model; -1: a new one.
        new_rows: of each new id the model's ids whose rows' mean it starts as; none: drawn, as widely as the others.

    Returns:
        The source of the model with that vocabulary.
    """
    rows_V = torch.tensor(rows)

    def words(name: str, row_range: slice) -> Tensor:
        old_VD, chosen = source.read(name), rows_V[row_range]
        values = old_VD[chosen.clamp(min=0)]
        for index in (chosen < 0).nonzero()[:, 0].tolist():
            values[index] = _first_row(old_VD, new_rows[row_range.start + index], f"{name} {row_range.start + index}")
        return values

    return source._replace(vocabulary_size=len(rows), words=words)


def _first_row(old_VD: Tensor, sources: Sequence[int], seed: str) -> Tensor:
    """The mean of some rows; where none are named a row drawn as widely as the others, the same on all ranks."""
    if len(sources) == 1:
        return old_VD[sources[0]]
    if sources:
        return old_VD[list(sources)].float().mean(0).to(old_VD.dtype)
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    return torch.randn(old_VD.shape[1], generator=generator) * old_VD[EOS + 1 : 4096].float().std()


def with_restored_words(
    source: WeightSource, base: WeightSource, restored_ids: Sequence[int], size: int
) -> WeightSource:
    """Restores the words of the base model that a model with a smaller vocabulary left out.

    Args:
        source: the model.
        base: the model that it started from; its rows stand wherever ``source`` has none.
        restored_ids: of each id of ``source`` its id in the result.
        size: ids of the result, at least those of ``base``.

    Returns:
        The source of the model with the whole vocabulary.
    """

    def words(name: str, row_range: slice) -> Tensor:
        values = torch.zeros(size, source.settings.d_model, dtype=source.dtype(name))
        values[: base.vocabulary_size] = base.read(name).to(values.dtype)
        values[list(restored_ids)] = source.read(name)
        return values[row_range]

    return source._replace(vocabulary_size=size, words=words)


def read_config(path: Path) -> dict[str, Any]:
    """Reads a config.json and refuses what is not M2M-100's architecture.

    Args:
        path: the file.

    Returns:
        Its values.

    Raises:
        UserError: where it is of another architecture, or no JSON object.
    """
    refuse_pointer(path)
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable configuration ({reason(error)}); download the file again") from None
    kind = str(config.get("model_type", "no model_type"))
    if kind != "m2m_100":
        why = f": {OTHERS[kind]}" if kind in OTHERS else ""
        raise UserError(f"{path}: {kind} cannot be used{why}; M2M-100 and dense NLLB-200 (m2m_100) can")
    if config.get("quantization_config"):
        raise UserError(f"{path}: its weights are quantised; give the directory of the model as it was trained")
    return dict(config)


def settings_of(config: Mapping[str, Any], path: Path) -> tuple[ModelSettings, tuple[str, ...]]:
    """Makes our settings of a transformers configuration.

    Args:
        config: as from ``read_config``.
        path: its file, for errors.

    Returns:
        The settings, and a line for each part of the configuration that is not used.

    Raises:
        UserError: where the configuration asks for what our model does not do.
    """
    try:
        fixed_values = {
            "activation_function": (config.get("activation_function", "relu"), "relu"),
            "decoder_attention_heads": (config["decoder_attention_heads"], config["encoder_attention_heads"]),
            "decoder_ffn_dim": (config["decoder_ffn_dim"], config["encoder_ffn_dim"]),
            "bos_token_id": (config.get("bos_token_id", BOS), BOS),
            "pad_token_id": (config.get("pad_token_id", PAD), PAD),
            "eos_token_id": (config.get("eos_token_id", EOS), EOS),
            "decoder_start_token_id": (config.get("decoder_start_token_id", EOS), EOS),
        }
        odd = [
            f"{name} is {value!r}, must be {expected!r}"
            for name, (value, expected) in fixed_values.items()
            if value != expected
        ]
        if odd:
            raise UserError(f"{path}: {'; '.join(odd)}; give a model of M2M-100's or NLLB's own configuration")
        settings = ModelSettings(
            d_model=config["d_model"], ffn=config["encoder_ffn_dim"], heads=config["encoder_attention_heads"],
            encoder_layers=config["encoder_layers"], decoder_layers=config["decoder_layers"],
            max_positions=config.get("max_position_embeddings", 1024),
            dropout=config.get("dropout", 0.1), attention_dropout=config.get("attention_dropout", 0.1),
            activation_dropout=config.get("activation_dropout", 0.0),
            scale_embedding=config.get("scale_embedding", True),
            share_embeddings="all" if config.get("tie_word_embeddings", True) else "none",
        )  # fmt: skip
        int(config["vocab_size"])
    except ValidationError as error:
        first = error.errors()[0]
        key_path = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {key_path and key_path + ': '}{first['msg']}; download the file again") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error} is missing or no number; download the file again") from None
    drops = {name: config.get(name, 0) for name in ("encoder_layerdrop", "decoder_layerdrop")}
    used = [f"{name} {value}" for name, value in drops.items() if value]
    return settings, (f"{path}: {' and '.join(used)} ignored: no layer is dropped",) if used else ()


def fill(model: nn.Module, source: WeightSource) -> list[str]:
    """Writes a source's weights into a model or some of its layers, one tensor at a time.

    Args:
        model: layers under the plain model's names.
        source: where the weights are.

    Returns:
        Names of the weights that the source does not have; they keep their values.
    """
    parameters = dict(model.named_parameters())
    for name in parameters.keys() & source.parts.keys():
        fill_parameter(parameters[name], source, name)
    return [name for name in parameters if name not in source.parts]


@torch.no_grad()
def fill_parameter(
    parameter: nn.Parameter, source: WeightSource, name: str, vocab_shard: VocabShard | None = None
) -> None:
    """Writes a weight's values into a parameter.

    Args:
        parameter: overwritten; of a split vocabulary this rank's rows.
        source: where the weights are.
        name: of the weight in the plain model.
        vocab_shard: this rank's words; None: all.
    """
    split = vocab_shard is not None and is_vocab_sharded(parameter)
    rows = slice(vocab_shard.start, vocab_shard.stop) if split and vocab_shard is not None else None
    parameter.copy_(source.read(name, rows))
    source.files.release()


def write_own(source: WeightSource, directory: Path, description: Mapping[str, Any]) -> None:
    """Writes a model directory of a source's weights, bit for bit, one tensor in memory at a time.

    Args:
        source: where the weights are.
        directory: an empty directory.
        description: what ``model.json`` says of them; the weights' SHA-256 is added.
    """
    shapes, path = source.shapes(), directory / "model.safetensors"

    def tensors() -> Iterator[Tensor]:
        for name in shapes:
            yield source.read(name)
            source.files.release()

    write_weights(path, list(shapes), list(shapes.values()), [source.dtype(name) for name in shapes], tensors())
    write_json(directory / "model.json", {**description, "sha256": sha256(path)})


def write_as_m2m100(source: WeightSource, path: Path) -> None:
    """Writes a source's weights under the names of transformers' M2M100, bit for bit, one tensor in memory at a time.

    Args:
        source: where the weights are.
        path: the safetensors file.
    """
    share, shapes = source.settings.share_embeddings, source.shapes()
    written: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        written |= m2m100_tensors(name, torch.empty(shape, dtype=source.dtype(name), device="meta"), share)

    def tensors() -> Iterator[Tensor]:
        for name in shapes:
            yield from m2m100_tensors(name, source.read(name), share).values()
            source.files.release()

    values = list(written.values())
    write_weights(path, list(written), [value.shape for value in values], [value.dtype for value in values], tensors())


def describe_export(source: WeightSource, path: Path, description: Mapping[str, Any], tokenizer_hash: str) -> None:
    """Writes the ``model.json`` by which our commands read an export, beside its weights.

    Args:
        source: the weights that were written.
        path: their safetensors file, with transformers' names.
        description: of the model that was exported.
        tokenizer_hash: of the tokenizer that is exported.
    """
    shape = source.settings.model_copy(update={"encoder_projection": "shared"})  # whose own is left out
    kept = {key: value for key, value in description.items() if key not in ("frozen", "sha256", CHECKSUM)}
    of_export = {
        "model": shape.model_dump(mode="json"),
        "vocabulary_size": source.vocabulary_size,
        "tokenizer_hash": tokenizer_hash,
        "names": "m2m_100",
        "sha256": sha256(path),
    }
    if source.words is None and "sha256" in description:
        of_export["exported"] = weights_identity(description)
    write_json(path.parent / "model.json", with_checksum({**kept, **of_export}))


def expected_shapes(settings: ModelSettings, vocabulary_size: int) -> dict[str, torch.Size]:
    """Lists a model's weights.

    Args:
        settings: its shape.
        vocabulary_size: V.

    Returns:
        Shapes by our names, without tied repeats.
    """
    with torch.device("meta"):
        model = Transformer(settings, vocabulary_size)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _open_own(directory: Path) -> WeightSource:
    description = describe_model(directory)
    try:
        settings, size = ModelSettings(**description["model"]), int(description["vocabulary_size"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{directory / 'model.json'}: describes no model; take another checkpoint of the run") from None
    files, is_export = WeightFiles(directory), "names" in description
    own = expected_shapes(settings, size)
    names = m2m100_names(settings, files.facts) if is_export else {name: (name,) for name in own}
    source = WeightSource(directory, settings, size, files, names)
    _check_tensors(source, tied_repeats=is_export and settings.share_embeddings != "none")
    plain = {name: parts for name, parts in names.items() if not is_adapter(name)}
    return source._replace(settings=settings.plain(), parts=plain, lora=settings.lora)


def _check_tensors(source: WeightSource, tied_repeats: bool) -> None:
    """Refuses missing, unknown and misshapen tensors, all in one line."""
    facts, faults = source.files.facts, []
    needed = {part for parts in source.parts.values() for part in parts}
    if missing := sorted(needed - facts.keys()):
        faults.append(f"missing {_listed(missing)}")
    repeats = ("lm_head.weight", "embed_tokens.weight", "shared.weight") if tied_repeats else ("model.shared.weight",)
    extra = sorted(name for name in facts.keys() - needed if not name.endswith((*UNUSED, *repeats)))
    if extra:
        faults.append(f"unknown {_listed(extra)}")
    for name, shape in expected_shapes(source.settings, source.vocabulary_size).items():
        for part in source.parts.get(name, ()):
            expected_shape = (shape[0] // len(source.parts[name]), *shape[1:])
            if part in facts and facts[part].shape != expected_shape:
                faults.append(f"{part} has shape {facts[part].shape}, wanted {expected_shape}")
            if part in facts and facts[part].dtype not in NAMES.values():
                faults.append(f"{part} is {facts[part].dtype}, wanted one of {', '.join(NAMES.values())}")
    if faults:
        raise UserError(
            f"{source.directory}: its tensors are not those of its configuration ({'; '.join(faults)}); give the"
            " model's own configuration, or download it again"
        )


def _check_repeats(source: WeightSource) -> None:
    """Refuses a matrix that the configuration ties, where it stands under several names with different values."""
    (used,) = source.parts["embedding.weight"]
    facts = source.files.facts
    for name in TIED_MATRICES:
        if name == used or name not in facts:
            continue
        same = facts[name].dtype == facts[used].dtype and all(
            torch.equal(source.files.read(name, rows), source.files.read(used, rows))
            for rows in (slice(i, i + ROWS_AT_ONCE) for i in range(0, source.vocabulary_size, ROWS_AT_ONCE))
        )
        source.files.release()
        if not same:
            raise UserError(
                f"{source.directory}: {name} holds other values than {used}, though config.json ties them, as a model"
                ' has it whose embeddings were trained apart; set "tie_word_embeddings": false in config.json'
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
