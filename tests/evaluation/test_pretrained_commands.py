"""``mnmt-ds import``, ``translate`` and ``export`` of pretrained models: there and back, translations alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mnmt_ds.batch import EOS, PAD
from mnmt_ds.cli.main import main
from mnmt_ds.data.derived_tokenizer import add_languages, trim, used_ids
from mnmt_ds.decoding.beam_search import BeamSettings, beam_search
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.decoding.pretrained import describe_pretrained, open_first_weights, open_pretrained
from mnmt_ds.decoding.translation import make_batches
from mnmt_ds.errors import UserError
from mnmt_ds.models.pretrained import write_own
from tests.pretrained import lines_of, write_model

TEXTS = list(lines_of("fr")[:4] + lines_of("fr")[400:404])
TAGS = {"m2m_100": ("fr", "__ka__"), "nllb": ("fra_Latn", "kat_Geor")}


def published(directory: Path, family: str, **config: Any) -> Path:
    write_model(directory, family, **config)
    generation = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "num_beams": 3, "max_length": 17}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


@pytest.mark.parametrize(("family", "dtype"), [("m2m_100", "float32"), ("nllb", "bfloat16")])
def test_there_and_back_bit_for_bit(family: str, dtype: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Import, then export: the same tensors, tokenizer files and generation configuration."""
    source = published(tmp_path / "source", family, dtype=dtype, encoder_layerdrop=0.1)
    assert main(["import", str(source), str(tmp_path / "ours")]) == 0
    out = capfd.readouterr().out
    assert "encoder_layerdrop 0.1 ignored: no layer is dropped" in out
    assert f"{tmp_path / 'ours'}: " in out and f"{100 if family == 'm2m_100' else 202} languages" in out
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "back")]) == 0
    ours, theirs = load_file(tmp_path / "back" / "model.safetensors"), load_file(source / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(value.dtype == ours[name].dtype and torch.equal(value, ours[name]) for name, value in theirs.items())
    written = ("config.json", "generation_config.json", "model.safetensors")
    kept = [path.name for path in source.iterdir() if path.name not in written]
    assert "sentencepiece.bpe.model" in kept
    assert [name for name in kept if (source / name).read_bytes() != (tmp_path / "back" / name).read_bytes()] == []
    before, after = (json.loads((path / "generation_config.json").read_text()) for path in (source, tmp_path / "back"))
    assert before == after
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, tmp_path / "back"))
    assert [name for name in after if before.get(name) != after[name]] == ["encoder_layerdrop"]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("family", "beam"),
    [("m2m_100", 4), ("nllb", 1), pytest.param("m2m_100", 1, marks=SLOW), pytest.param("nllb", 4, marks=SLOW)],
)
def test_generation_is_transformers(family: str, beam: int, tmp_path: Path) -> None:
    """Token for token, from an imported directory, with each family's framing and forced first token."""
    from transformers import AutoTokenizer, M2M100ForConditionalGeneration

    source = published(tmp_path / "source", family, legacy_behaviour=family == "nllb")
    assert main(["import", str(source), str(tmp_path / "ours")]) == 0
    translator = open_translator(tmp_path / "ours")
    first, tag = TAGS[family]
    tokenizer = AutoTokenizer.from_pretrained(source, src_lang=first)
    model = M2M100ForConditionalGeneration.from_pretrained(source).eval()
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    length = 14
    generated = model.generate(
        **inputs, forced_bos_token_id=tokenizer.convert_tokens_to_ids(tag), num_beams=beam, early_stopping=True,
        do_sample=False, max_length=length + 2, suppress_tokens=[0, 1], length_penalty=1.0,
    )  # fmt: skip
    [batch] = make_batches(translator, "fr-ka", translator.tokenizer.encode_many(TEXTS, "fr"), 10_000)
    settings = BeamSettings(beam=beam, max_length_ratio=0, max_length_plus=length)
    found = beam_search(translator.model, inputs["input_ids"], batch.start, settings)
    for place, text in zip(batch.positions, batch.sources, strict=True):
        assert text == [token for token in inputs["input_ids"][place].tolist() if token != PAD]
    theirs = [[token for token in row[2:] if token not in (PAD, EOS)] for row in generated.tolist()]
    assert [hypotheses[0].tokens for hypotheses in found] == theirs
    assert max(map(len, theirs)) > 2


@SLOW
def test_exports_translate_alike(tmp_path: Path) -> None:
    """CTranslate2 and transformers give our greedy translations; --pair forces its target's tag."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    from transformers import M2M100ForConditionalGeneration

    source = published(tmp_path / "source", "m2m_100")
    assert main(["import", str(source), str(tmp_path / "ours")]) == 0
    translator = open_translator(tmp_path / "ours")
    [batch] = make_batches(translator, "fr-ka", translator.tokenizer.encode_many(TEXTS, "fr"), 10_000)
    found = [
        beam_search(
            translator.model, torch.tensor([row]), batch.start,
            BeamSettings(beam=1, max_length_ratio=0, max_length_plus=12), banned=(),
        )[0][0].tokens
        for row in batch.sources
    ]  # fmt: skip
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "ct2"), "--format", "ctranslate2"]) == 0
    peer = ctranslate2.Translator(str(tmp_path / "ct2"), device="cpu", intra_threads=1)
    piece = translator.tokenizer.piece
    results = peer.translate_batch(
        [[piece(i) for i in row] for row in batch.sources], target_prefix=[["__ka__"]] * len(batch.sources),
        beam_size=1, max_decoding_length=13,
    )  # fmt: skip
    assert [result.hypotheses[0] for result in results] == [["__ka__", *map(piece, tokens)] for tokens in found]
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "hf"), "--pair", "fr-ka"]) == 0
    model = M2M100ForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    assert model.generation_config.forced_bos_token_id == translator.tokenizer.tag("ka")
    for row, tokens in zip(batch.sources, found, strict=True):
        [generated] = model.generate(input_ids=torch.tensor([row]), num_beams=1, max_length=14).tolist()
        assert [token for token in generated[2:] if token != EOS] == tokens


def test_translates_from_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = published(tmp_path / "source", "nllb")
    (tmp_path / "text").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    assert main(["import", str(source), str(tmp_path / "ours")]) == 0
    assert main(["translate", str(tmp_path / "ours"), "--pair", "fr-ka", str(tmp_path / "text")]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1 + len(TEXTS)
    assert main(["translate", str(tmp_path / "ours"), "--pair", "fr-zh", str(tmp_path / "text")]) == 2
    assert "language 'zh': the tokenizer has zho_Hans and zho_Hant; name one" in capfd.readouterr().err
    assert main(["translate", str(tmp_path / "ours"), "--pair", "fr-xx", str(tmp_path / "text")]) == 2
    assert "language 'xx': not in the tokenizer" in capfd.readouterr().err


def test_import_refuses_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = published(tmp_path / "source", "nllb")
    capfd.readouterr()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("precious")

    def refusal(source: Path, out: str = "ours") -> str:
        assert main(["import", str(source), str(tmp_path / out)]) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "kept: exists and is not empty" in refusal(source, "kept")
    assert "nowhere: no directory" in refusal(tmp_path / "nowhere")
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "MBart50Tokenizer"}))
    assert "its tokenizer is MBart50Tokenizer; known are" in refusal(source)
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    model = source / "sentencepiece.bpe.model"
    whole = model.read_bytes()
    model.write_bytes(whole[:1000])
    assert f"{model}: not a SentencePiece model, or cut short" in refusal(source)
    model.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert f"{model}: a Git LFS pointer" in refusal(source)
    model.unlink()
    (source / "tokenizer.json").unlink()
    assert "sentencepiece.bpe.model (or tokenizer.json) is missing" in refusal(source)
    model.write_bytes(whole)
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**values, "vocab_size": 2003}))
    assert "its tensors are not those of its configuration (model.shared.weight has shape" in refusal(source)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("family", ["m2m_100", pytest.param("nllb", marks=SLOW)])
def test_trimmed_and_with_a_new_language(family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Rows under the smaller vocabulary are the model's; an export puts the others back, and knows the new tag."""
    from transformers import AutoTokenizer

    base = published(tmp_path / "base", family)
    whole, old = open_pretrained(base)
    used = used_ids(old, TEXTS, "fr")
    language = "xx" if family == "m2m_100" else "xxx_Latn"
    tokenizer = trim(add_languages(old, {language: "fr", "yyy_Latn": "mean", "zzz_Latn": "random"}), used)
    assert tokenizer.size < old.size / 2
    model = tmp_path / "run" / "best"
    source, line = open_first_weights(str(base), tokenizer, tmp_path)
    assert f"({tokenizer.size - 3:,} of its {old.size:,} words, 3 new ones)" in line
    assert tokenizer.derivation is not None
    before, rows = whole.read("embedding.weight"), tokenizer.derivation.rows
    for rank in (slice(0, 300), slice(300, tokenizer.size)):
        values = source.read("embedding.weight", rank)
        for value, row in zip(values, rows[rank], strict=True):
            assert row < 0 or torch.equal(value, before[row])
    values = source.read("embedding.weight")
    assert torch.equal(values[tokenizer.tag(language)], before[old.tag("fr")])
    tags = torch.stack([before[old.tag(name)] for name in old.languages])
    torch.testing.assert_close(values[tokenizer.tag("yyy_Latn")], tags.mean(0))
    assert 0.1 < float(values[tokenizer.tag("zzz_Latn")].std()) < 0.6
    facts = describe_pretrained(base)
    description = {
        "model": facts.settings.model_dump(mode="json"), "vocabulary_size": tokenizer.size, "pairs": [f"fr-{language}"],
        "framing": facts.framing.model_dump(mode="json"), "tokenizer_hash": tokenizer.hash,
    }  # fmt: skip
    model.mkdir(parents=True)
    write_own(source, model, description)
    tokenizer.save_to(tmp_path / "run" / "tokenizer")
    assert main(["translate", str(model), "--pair", f"fr-{language}", str(_file(tmp_path))]) == 0
    capfd.readouterr()
    assert main(["export", str(model), str(tmp_path / "out")]) == 2
    assert "its vocabulary was trimmed; add --restore" in capfd.readouterr().err
    assert main(["export", str(model), str(tmp_path / "out"), "--restore", str(base)]) == 0
    restored = load_file(tmp_path / "out" / "model.safetensors")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    place = theirs.convert_tokens_to_ids(f"__{language}__" if family == "m2m_100" else language)
    assert place == add_languages(old, {language: "fr"}).tag(language)
    for name, value in load_file(base / "model.safetensors").items():
        if name != "model.shared.weight":
            assert torch.equal(restored[name], value), name
    table = restored["model.shared.weight"]
    same = [i for i in range(old.size) if not old.piece(i).startswith("<unused")]
    assert torch.equal(table[same], before[same])
    assert torch.equal(table[place], before[old.tag("fr")])
    other = published(tmp_path / "other", "nllb" if family == "m2m_100" else "m2m_100")
    capfd.readouterr()
    assert main(["export", str(model), str(tmp_path / "out2"), "--restore", str(other)]) == 2
    assert "not the model that" in capfd.readouterr().err


def _file(directory: Path) -> Path:
    path = directory / "text"
    path.write_text("\n".join(TEXTS[:2]) + "\n", encoding="utf-8")
    return path


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123\n"
FILES = {
    "m2m_100": ("config.json", "model.safetensors", "sentencepiece.bpe.model", "vocab.json", "tokenizer_config.json"),
    "nllb": ("config.json", "model.safetensors.index.json", "sentencepiece.bpe.model", "tokenizer_config.json"),
    "nllb, fast tokenizer alone": ("tokenizer.json",),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory of each family, one of them in shards, and one with the fast tokenizer's file alone."""
    place = tmp_path_factory.mktemp("families")
    found = {
        "m2m_100": published(place / "m2m", "m2m_100"),
        "nllb": published(place / "nllb", "nllb", max_shard_size="40KB"),
        "nllb, fast tokenizer alone": published(place / "fast", "nllb"),
    }
    (place / "fast" / "sentencepiece.bpe.model").unlink()
    return found


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FILES.items() for name in names])
def test_a_file_that_is_not_whole_is_named_in_one_line(kind: str, name: str, directories: dict[str, Path]) -> None:
    """A Git LFS pointer, nothing, and the first half in its place."""
    path = directories[kind] / name
    whole = path.read_bytes()
    try:
        for part in (POINTER, b"", whole[: len(whole) // 2]):
            path.write_bytes(part)
            with pytest.raises(UserError) as error:
                open_pretrained(directories[kind])
            line = str(error.value)
            assert "\n" not in line and str(path) in line, line
            assert part != POINTER or "a Git LFS pointer" in line, line
    finally:
        path.write_bytes(whole)
    open_pretrained(directories[kind])


def test_a_tokenizer_that_is_not_the_models(directories: dict[str, Path], tmp_path: Path) -> None:
    """The corpus's, then the directory's own: one that has more ids, and one of another model of that size."""
    _, other = open_pretrained(directories["nllb"])
    with pytest.raises(UserError) as error:
        open_first_weights(str(directories["m2m_100"]), other, tmp_path)
    assert f"{tmp_path}: its tokenizer ({other.hash[:12]}) is not that of model.init=" in str(error.value)
    assert "\n" not in str(error.value)
    copied = tmp_path / "copied"
    shutil.copytree(directories["m2m_100"], copied)
    for file in ("sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directories["nllb"] / file, copied / file)
    (copied / "vocab.json").unlink()
    with pytest.raises(UserError, match=r"its tokenizer has 2,204 ids, config\.json a vocabulary of 2,109"):
        open_pretrained(copied)
