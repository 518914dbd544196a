"""Runs that start from a pretrained model or from another run: which weights, on which rank, and what is refused."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mnmt_ds.cli.main import main
from mnmt_ds.data.binarization import ParallelText
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.data.given_tokenizer import build_given_tokenizer, open_recipe_tokenizer
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.pretrained_tokenizer import open_family_tokenizer
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.decoding.pretrained import open_first_weights, with_pretrained
from mnmt_ds.engine.parallel.first_weights import read_first_weights, without_draws
from mnmt_ds.engine.recipe import load_recipe, with_first_weights
from mnmt_ds.errors import UserError
from mnmt_ds.files import sha256
from mnmt_ds.models.layer_sequence import ModelChunk, layer_entries
from mnmt_ds.models.layers import sinusoids
from mnmt_ds.models.pretrained import expected_shapes, open_weights
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.vocab_parallel import VocabShard, shard_vocabulary
from mnmt_ds.models.weights import save_model
from tests.pretrained import lines_of, write_model
from tests.spawn import on_ranks
from tests.tiny import ROOT, recipe, zero

PAIRS = {"fr-en": 90, "ka-en": 60}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("pretrained") / "nllb", "nllb")


@pytest.fixture(scope="module")
def corpus(pretrained: Path) -> Path:
    """Names of languages and countries, tokenised by the pretrained model's tokenizer."""
    root = pretrained.parent
    corpora: dict[str, Any] = {}
    for pair in PAIRS:
        rows = zip(lines_of(pair[:2]), lines_of("en"), strict=False)
        text = "".join(f"{source}\t{target}\n" for source, target in list(rows)[:240])
        (root / f"{pair}.tsv").write_text(text, encoding="utf-8")
        corpora[pair] = {"train": [{"format": "tsv", "path": str(root / f"{pair}.tsv")}]}
    settings = {
        "directory": str(root / "data"), "pairs": list(PAIRS), "corpora": corpora, "max_train": PAIRS,
        "clean": {"min_script": 0.0, "max_ratio": 99, "copied": "keep"}, "split": {"dev": 12, "test": 0},
        "tokenizer": {"model": str(pretrained)},
    }  # fmt: skip
    prepare(DataSettings.model_validate(settings), processes=1)
    return root / "data"


def source_weights(directory: Path) -> dict[str, torch.Tensor]:
    source = open_weights(directory)
    return {name: source.read(name) for name in source.parts}


def test_layers_hold_their_part_of_the_weights(pretrained: Path) -> None:
    """A whole model, pipeline stages, and words of a split vocabulary: values of the files, in the wanted type."""
    settings, size = open_weights(pretrained).settings, open_weights(pretrained).vocabulary_size
    whole = source_weights(pretrained)
    entries = layer_entries(settings, size)
    with without_draws():
        layers: list[Any] = [
            Transformer(settings, size), ModelChunk(settings, size, entries, 0, 4),
            ModelChunk(settings, size, entries, 4, len(entries)),
        ]  # fmt: skip
    seen = set[str]()
    for model in layers:
        read_first_weights(model, open_weights(pretrained), torch.bfloat16)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, whole[name].bfloat16()), name
            seen.add(name)
    assert seen == whole.keys()
    split = Transformer(settings.model_copy(update={"encoder_projection": "own"}), size)
    shard = VocabShard(None, 1000, 2000)  # type: ignore[arg-type]
    shard_vocabulary(split, shard)
    read_first_weights(split, open_weights(pretrained), torch.float32, shard)
    assert torch.equal(split.embedding.weight, whole["embedding.weight"][1000:2000])
    assert split.head.weight is split.embedding.weight
    assert torch.equal(split.decoder[1].cross.kv.weight, whole["decoder.1.cross.kv.weight"])
    drawn = split.encoder_projection.weight
    assert drawn.shape == (1000, 16) and 0.2 < float(drawn.std()) < 0.3, "what the model lacks is drawn as ever"


def test_shape_and_framing_are_the_models(pretrained: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data: {{pairs: [fr-en]}}\nmodel: {{init: {pretrained}, dropout: 0.2}}\n")
    read = load_recipe(path)
    assert (read.model.d_model, read.model.ffn, read.model.heads) == (16, 24, 2)
    assert (read.model.encoder_layers, read.model.max_positions, read.model.dropout) == (2, 64, 0.2)
    assert read.framing == FramingSettings(decoder_langtok_position="after_end")
    again = with_pretrained(read.model, read.framing)
    assert again == (read.model, read.framing), "a run's own recipe.yaml may be used again"
    assert load_recipe(path, ["model.max_positions=32"]).model.max_positions == 32
    for override, words in (
        ("model.d_model=32", f"model.d_model: is 32, that of model.init={pretrained} is 16; leave it out"),
        ("model.share_embeddings=decoder", "model.share_embeddings: is decoder"),
        ("framing.decoder_langtok=none", "decoder_langtok: is none, there tgt"),
        (f"model.init={tmp_path}", f"{tmp_path}: neither config.json nor model.json there"),
    ):
        with pytest.raises(UserError) as error:
            load_recipe(path, [override])
        assert words in str(error.value) and "\n" not in str(error.value)


def test_another_tokenizer_is_refused(pretrained: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    tokenizer = open_family_tokenizer(pretrained)
    _, line = open_first_weights(str(pretrained), tokenizer, tmp_path)
    assert line.startswith(f"model.init: {pretrained}: weights, shape and framing are taken; optimizer, learning rate")
    assert "--resume goes on with them" in line
    with pytest.raises(UserError) as error:
        open_first_weights(str(pretrained), Tokenizer.open(tiny_corpus / "tokenizer"), tiny_corpus)
    assert f"set data.tokenizer.model={pretrained} and run mnmt-ds prepare again" in str(error.value)


def test_a_given_tokenizer_is_prepared(pretrained: Path, tmp_path: Path) -> None:
    """As it is; or with a new tag and without what the text does not need. Unknown languages are named at once."""
    path = tmp_path / "text"
    path.write_text("".join(f"{line}\n" for line in lines_of("fr")[:200]), encoding="utf-8")
    text = ParallelText((path,), ("fr",), (sha256(path),), 200)
    sizes = []
    for changes in ({}, {"trim": True, "new_languages": {"xxx_Latn": "fr"}}):
        tokenizer = {"model": str(pretrained), **changes}
        pairs = ["fr-en", *["fr-xxx_Latn"] * bool(changes)]
        settings = DataSettings.model_validate({"pairs": pairs, "tokenizer": tokenizer})
        given = open_recipe_tokenizer(settings)
        assert given is not None
        with ThreadPoolExecutor(1) as pool:
            output, made = build_given_tokenizer(tmp_path / "work", pool, settings, given, [text])
            assert made and not build_given_tokenizer(tmp_path / "work", pool, settings, given, [text])[1]
        prepared = Tokenizer.open(output.directory)
        assert prepared.size == output.record["size"] and prepared.hash == output.record["hash"]
        assert prepared.originals.keys() >= {"sentencepiece.bpe.model", "tokenizer.json"}
        sizes.append(prepared.size)
    assert sizes[1] < 0.6 * sizes[0] and prepared.tag("xxx_Latn") < sizes[1]
    for languages, words in (("fr-qq", "language 'qq': not in the tokenizer"), ("fr-zh", "has zho_Hans and zho_Hant")):
        unknown = DataSettings.model_validate({"pairs": [languages], "tokenizer": {"model": str(pretrained)}})
        with pytest.raises(UserError, match=words):
            open_recipe_tokenizer(unknown)
    with pytest.raises(ValueError, match="new_languages, new_pieces and trim are for a tokenizer that is given"):
        DataSettings.model_validate({"pairs": ["fr-en"], "tokenizer": {"trim": True}})
    typo = DataSettings.model_validate({"pairs": ["fr-en"], "tokenizer": {"model": "unigarm"}})
    with pytest.raises(UserError, match="'unigarm' is neither unigram, bpe nor a path that is there"):
        open_recipe_tokenizer(typo)


def run_layouts(init: str, corpus: str, folder: str) -> list[str]:
    """Starts from a pretrained model under several layouts; names of weights that are not its own, by layout."""
    from mnmt_ds.engine.loop import Training

    whole, wrong = source_weights(Path(init)), []
    layouts: dict[str, dict[str, Any]] = {
        "zero0": {}, "zero1": {}, "zero3": {}, "stages": {"pipeline": {"stages": 2}},
        "words": {"tensor": {"vocabulary": 2}}, "zero3-bf16": {"train": {"precision": "bf16"}},
    }  # fmt: skip
    for name, sections in layouts.items():
        stage = int(name[4]) if name.startswith("zero") else 0
        run = Path(folder) / name
        values = recipe(Path(corpus), run, deepspeed=zero(stage, run), **sections)
        model = ModelSettings(init=init)
        data = values.data.model_copy(update={"pairs": tuple(PAIRS)})
        dtype = torch.bfloat16 if "bf16" in name else torch.float32
        started = values.model_copy(update={"model": model, "data": data, "framing": FramingSettings()})
        started.__pydantic_fields_set__.discard("framing")
        training = Training(with_first_weights(started), resume=False)
        for key, value in training.first.engine.gather_weights().items():
            if not torch.equal(value.float(), whole[key].to(dtype).float()):
                wrong.append(f"{name}: {key}")
        if name.startswith("zero"):
            table = training.first.engine.model.embedding.positions  # DeepSpeed's zero.Init would compute it in bf16
            if not torch.equal(table, sinusoids(len(table), table.shape[1]).to(table.dtype)):
                wrong.append(f"{name}: positions")
        training.close()
    return wrong


@pytest.mark.slow
def test_every_layout_starts_from_the_same_weights(pretrained: Path, corpus: Path, tmp_path: Path) -> None:
    assert on_ranks(2, run_layouts, str(pretrained), str(corpus), str(tmp_path)) == [[], []]


def peak_of_first_weights(init: str) -> dict[str, tuple[int, int, int]]:
    """Bytes that reading adds at its peak, a rank's share, the largest tensor: at ZeRO-3, of a stage, of words."""
    import torch.distributed as dist

    from mnmt_ds.engine.parallel.first_weights import partition_at_zero_3

    source = open_weights(Path(init))
    settings, size, rank = source.settings, source.vocabulary_size, dist.get_rank()
    largest = max(shape.numel() for shape in source.shapes().values()) * 4
    whole = sum(shape.numel() for shape in source.shapes().values()) * 4
    entries = layer_entries(settings, size)
    found = {}
    for name in ("zero3", "stage", "words"):
        partition, shard = None, None
        with without_draws():
            if name == "stage":
                half = len(entries) // 2
                bounds = (0, half) if rank == 0 else (half, len(entries))
                model: Any = ModelChunk(settings, size, entries, *bounds)
            else:
                model = Transformer(settings, size)
        if name == "zero3":
            config = {"train_batch_size": 2, "zero_optimization": {"stage": 3}}
            partition = partition_at_zero_3(config, SimpleNamespace(model_parallel_unit=None))  # type: ignore[arg-type]
        if name == "words":
            shard = VocabShard(dist.group.WORLD, rank * size // 2, (rank + 1) * size // 2)
            shard_vocabulary(model, shard)
        share = whole // 2 if name == "zero3" else sum(parameter.numel() for parameter in model.parameters()) * 4
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        read_first_weights(model, source, torch.float32, shard, partition)
        found[name] = (memory("VmHWM") - before, share, largest)
        del model
        dist.barrier()
    return found


def memory(field: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


@pytest.mark.slow
def test_no_rank_holds_more_than_its_share_and_a_tensor(tmp_path: Path) -> None:
    shape = dict(d_model=512, ffn=2048, heads=8, encoder_layers=12, decoder_layers=12)
    settings = ModelSettings.model_validate(shape)
    weights = {name: torch.full(size, 0.5) for name, size in expected_shapes(settings, 8000).items()}
    description = {"model": settings.model_dump(mode="json"), "vocabulary_size": 8000, "pairs": [],
                   "framing": FramingSettings().model_dump(mode="json"), "tokenizer_hash": ""}  # fmt: skip
    save_model(tmp_path / "model", weights, description)
    del weights
    for rank in on_ranks(2, peak_of_first_weights, str(tmp_path / "model")):
        print(rank)
        for name, (peak, share, largest) in rank.items():
            assert peak < share + largest + 24 * 2**20, (name, peak >> 20, share >> 20, largest >> 20)


def train_twice(pretrained: str, corpus: str, folder: str) -> list[list[str]]:
    """A run from a pretrained model, a second one from that run with another method, then the second one resumed."""
    from mnmt_ds.engine.loop import Training, stopping, train_epochs

    wrong: list[list[str]] = []
    for name, init, method, pairs, steps, resume in (
        ("first", pretrained, "translation", list(PAIRS), 4, False),
        ("second", f"{folder}/first", "lssd", ["fr-en"], 4, False),
        ("second", f"{folder}/first", "lssd", ["fr-en"], 6, True),
    ):
        path = Path(folder) / f"{name}.yaml"
        values = {
            "directory": f"{folder}/{name}", "data": {"directory": corpus, "pairs": pairs}, "model": {"init": init},
            "method": {"name": method}, "validation": {"every": 2}, "deepspeed": "ds_configs/zero1.json",
            "train": {"max_tokens": 96, "max_steps": steps, "lr": 1e-3, "warmup_steps": 2},
        }  # fmt: skip
        path.write_text(json.dumps(values))
        training = Training(load_recipe(path), resume)
        directory = Path(init) if init == pretrained else Path(init) / "best"
        whole = source_weights(directory)
        now = training.first.engine.gather_weights()
        wrong.append([key for key, value in now.items() if not torch.equal(value, whole[key])])
        with stopping() as stop:
            train_epochs(training, stop)
        training.close()
        training.lock.close()  # type: ignore[union-attr]
    return wrong


@pytest.mark.slow
def test_a_run_from_a_run(pretrained: Path, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both start from their model's weights; the second one's model comes out with the family's tokenizer files."""
    [wrong] = on_ranks(1, train_twice, str(pretrained), str(corpus), str(tmp_path))
    assert wrong[:2] == [[], []]
    assert len(wrong[2]) > 10, "a resumed run goes on from its checkpoint"
    assert main(["export", str(tmp_path / "second"), str(tmp_path / "out")]) == 0
    for name in ("sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (pretrained / name).read_bytes()
    model = json.loads((tmp_path / "second" / "best" / "model.json").read_text())
    assert "init" not in model["model"] and model["pairs"] == ["fr-en"]
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert state.keys() == load_file(pretrained / "model.safetensors").keys()
    again = ["train", str(tmp_path / "second.yaml")]
    capfd.readouterr()
    assert main(again) == 2
    assert "holds a run already; add --resume" in capfd.readouterr().err


@pytest.mark.slow
def test_commands_with_a_trimmed_vocabulary(pretrained: Path, corpus: Path, tmp_path: Path) -> None:
    """prepare, train, evaluate, export: a language that the tokenizer lacks, and a vocabulary cut to the text."""
    root = pretrained.parent
    files = {pair: {"train": [{"format": "tsv", "path": str(root / f"{pair}.tsv")}]} for pair in PAIRS}
    corpora = {"xxx_Latn-en": files["fr-en"], "ka-en": files["ka-en"]}
    values = {
        "directory": str(tmp_path / "run"),
        "data": {
            "directory": str(tmp_path / "data"), "pairs": list(corpora), "corpora": corpora, "max_train": {"*": 60},
            "clean": {"min_script": 0.0, "max_ratio": 99, "copied": "keep"}, "split": {"dev": 12, "test": 6},
            "tokenizer": {"model": str(pretrained), "trim": True, "new_languages": {"xxx_Latn": "fr"}},
        },
        "model": {"init": str(pretrained)}, "method": {"name": "lssd"}, "validation": {"every": 3},
        "train": {"max_tokens": 96, "max_steps": 6, "lr": 1e-3, "warmup_steps": 2},
        "deepspeed": "ds_configs/zero1.json",
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))
    commands = (
        ["prepare", path, "--processes", "1"], ["validate", path, "--processes", "1"], ["train", path, "--dry-run"],
        ["train", path], ["evaluate", tmp_path / "run"],
        ["export", tmp_path / "run", tmp_path / "out", "--restore", pretrained],
    )  # fmt: skip
    printed = ""
    for command in commands:
        words = [sys.executable, "-m", "mnmt_ds.cli.main", *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, (command, done.stderr[-2000:])
        printed += done.stdout + done.stderr
    size = Corpus.open(tmp_path / "data").tokenizer.size
    assert f"({size - 1:,} of its 2,206 words, 1 new ones), shape and framing are taken" in printed
    assert size < 0.6 * 2206
    restored, before = (load_file(place / "model.safetensors") for place in (tmp_path / "out", pretrained))
    moved = (restored["model.shared.weight"] != before["model.shared.weight"]).any(1)
    assert 0 < int(moved.sum()) <= size
