"""``mnmt-ds export``: the written directories translate as the model does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mnmt_ds.batch import PAD
from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import frame_source
from mnmt_ds.data.pretrained_tokenizer import open_given_tokenizer
from mnmt_ds.decoding.beam_search import BeamSettings
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.decoding.pretrained import with_pretrained
from mnmt_ds.decoding.translation import translate_all
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.weights import describe_model, read_elements, read_weights, save_model
from tests.evaluation.runs import model_run

PAIR = "fr-en"


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)


def test_transformers_directory(
    run: Path, tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the files alone: same ids, same logits to 1e-5, same translations; any pair by its tags."""
    from transformers import AutoTokenizer, M2M100ForConditionalGeneration

    out = tmp_path / "hf"
    assert main(["export", str(run), str(out), "--pair", PAIR]) == 0
    printed = capfd.readouterr().out.splitlines()
    assert printed[0] == f"{out}: transformers, defaults for {PAIR}"
    assert all(note.startswith("tokenizer.json splits differently") and f"{note}." in (out / "README.md").read_text()
               for note in printed[1:])  # fmt: skip
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["max_length"] == 65, "as long as the model's positions let translate go on"
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = M2M100ForConditionalGeneration.from_pretrained(out)
    translator, split = open_translator(run), Corpus.open(tiny_corpus).split(PAIR, "test")
    texts = split.text()[0]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    frame = translator.frame(PAIR)
    for i, row in enumerate(inputs["input_ids"]):
        assert row[row != PAD].tolist() == frame_source(frame, split.pieces(i)[0].tolist())
    other = translator.frame("bs-en")
    ids = tokenizer("__bs__" + texts[0] + "</s>", add_special_tokens=False)["input_ids"]
    assert ids == frame_source(other, translator.tokenizer.encode(texts[0], "bs"))
    decoder_BT = torch.randint(4, 60, (len(texts), 7))
    with torch.inference_mode():
        ours = translator.model.head(translator.model(inputs["input_ids"], decoder_BT).decoder_BTD)
        theirs = model(**_only(inputs), decoder_input_ids=decoder_BT).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    pieces = [split.pieces(i)[0] for i in range(len(texts))]
    found = translate_all(translator, {PAIR: pieces}, BeamSettings(max_length_ratio=0, max_length_plus=40), 1024)
    generated = model.generate(**_only(inputs), max_length=41)
    assert tokenizer.batch_decode(generated, skip_special_tokens=True) == [
        translator.tokenizer.decode(row[0].tokens) for row in found[PAIR]
    ]


@pytest.mark.parametrize("share", ["all", "decoder", "none"])
def test_every_command_reads_an_export(
    share: str, tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The transformers directory of a run, as the run's own model: the same weights, hypotheses and files."""
    trained = model_run(tmp_path / "run", tiny_corpus)
    other, out = tmp_path / "other", tmp_path / "hf"
    weights, facts = read_weights(trained / "best"), describe_model(trained / "best")
    facts["model"]["share_embeddings"] = share
    weights |= {"source_embedding.weight": weights["embedding.weight"] * 0.9} if share != "all" else {}
    weights |= {"head.weight": weights["embedding.weight"] * 1.1} if share == "none" else {}
    save_model((trained / "best").resolve(), weights, facts)
    save_model(other, {name: value * 1.01 for name, value in weights.items()}, facts)
    open_translator(trained).tokenizer.save_to(other / "tokenizer")
    assert main(["export", str(trained), str(out)]) == 0
    source, reference = tmp_path / "in", tmp_path / "ref"
    source.write_text("derbo eulbbo\nhsifbo\n")
    reference.write_text("red blue\nfish\n")

    def lines(*words: Any) -> list[str]:
        capfd.readouterr()
        assert main([str(word) for word in words]) == 0, capfd.readouterr().err
        return [line for line in capfd.readouterr().out.splitlines() if "decoded in" not in line]

    command = [source, "--pair", "bs-en", "--device", "cpu"]
    expected = lines("translate", trained, *command, "--nbest", 2)
    assert lines("translate", out, *command, "--nbest", 2) == expected
    assert lines("translate", out, *command, "--jobs", 2, "--nbest", 2) == expected
    assert lines("translate", other, *command, "--ensemble", out) == lines(
        "translate", other, *command, "--ensemble", trained
    )
    assert len(set(map(str, expected))) > 1
    assert main(["translate", str(trained), *map(str, command), "--ensemble", str(out)]) == 2, "one model"
    test = ["--pairs", "bs-en", "--test", source, reference]
    assert lines("evaluate", out, *test) == lines("evaluate", trained, *test)
    lines("import", out, tmp_path / "back")
    lines("average", tmp_path / "mean", out, other)
    lines("synthesise", out, reference, "--pair", "bs-en", "--direction", "back", "-o", tmp_path / "text")
    lines("export", out, tmp_path / "again")
    again, first = (load_file(path / "model.safetensors") for path in (tmp_path / "again", out))
    assert again.keys() == first.keys() and all(torch.equal(again[name], value) for name, value in first.items())
    read_back = read_weights(out)
    for name, value in read_weights(tmp_path / "back").items():
        assert torch.equal(value, weights[name]) and torch.equal(read_back[name], weights[name]), name
    assert read_back.keys() == weights.keys()
    half = read_elements(out, {"encoder.0.attention.qkv.weight": (5, 100)})["encoder.0.attention.qkv.weight"]
    assert torch.equal(half, weights["encoder.0.attention.qkv.weight"].flatten()[5:100])
    assert open_given_tokenizer(out, ["bs"]).hash == open_translator(trained).tokenizer.hash
    shapes = [with_pretrained(ModelSettings(init=str(path)), None) for path in (out, trained)]
    assert shapes[0][0].model_copy(update={"init": str(trained)}) == shapes[1][0] and shapes[0][1] == shapes[1][1]
    (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:-4] + b"abcd")
    assert main(["translate", str(out), *map(str, command)]) == 2
    assert "was altered" in capfd.readouterr().err


def test_ctranslate2_directory(
    run: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One directory gives the greedy translations of our model in every pair (its beam search has rules of its own)."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    out = tmp_path / "ct2"
    assert main(["export", str(run), str(out), "--pair", PAIR, "--format", "ctranslate2"]) == 0
    translator = open_translator(run)
    tokenizer, pairs = translator.tokenizer, translator.description["pairs"]
    peer = ctranslate2.Translator(str(out), device="cpu", intra_threads=1)
    settings = BeamSettings(beam=1, max_length_ratio=0, max_length_plus=30)
    for pair in pairs:
        split, frame = Corpus.open(tiny_corpus).split(pair, "test"), translator.frame(pair)
        pieces = [split.pieces(i)[0] for i in range(len(split))]
        sources = [[tokenizer.piece(i) for i in frame_source(frame, ids.tolist())] for ids in pieces]
        start = [[tokenizer.piece(frame.decoder_start)]] * len(sources)
        results = peer.translate_batch(sources, target_prefix=start, beam_size=1, max_decoding_length=30)
        found = translate_all(translator, {pair: pieces}, settings, 1024)[pair]
        assert [result.hypotheses[0] for result in results] == [
            [tokenizer.piece(i) for i in row[0].tokens] for row in found
        ]
    assert len(pairs) == 3


@pytest.mark.parametrize("kind", ["transformers", "ctranslate2"])
def test_the_readmes_code_runs_and_its_card_has_the_scores(
    run: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert main(["evaluate", str(run), "--jobs", "1"]) == 0
    out = tmp_path / "out"
    assert main(["export", str(run), str(out), "--pair", PAIR, "--format", kind]) == 0
    readme = (out / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(readme.split("---\n")[1])
    assert head == {"library_name": kind, "pipeline_tag": "translation", "language": ["bs", "en", "hi", "fr"],
                    "tags": ["mnmt_ds"]}  # fmt: skip
    report = json.loads((run / "evaluation" / "best.test.json").read_text())
    scores = report["pairs"][PAIR]
    sentences = len(Corpus.open(tiny_corpus).split(PAIR, "train"))
    assert f"| {PAIR} | {sentences} | {scores['bleu']:.1f} | {scores['chrf']:.1f} |" in readme
    assert f"- `{scores['bleu_signature']}`" in readme and report["model"] in readme
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    capsys.readouterr()
    exec(code.replace("…", "derbo eulbbo"), {"DIRECTORY": str(out)})
    printed = capsys.readouterr().out.strip()
    assert printed and "{" not in printed


def test_existing_directory_is_kept(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["export", str(run), str(tmp_path)]) == 2
    assert f"{tmp_path}: exists and is not empty" in capfd.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


def _only(inputs: dict) -> dict:
    return {key: inputs[key] for key in ("input_ids", "attention_mask")}
