"""One flipped bit in any file that a command reads: one line that names the file, or the outcome of the whole file.

Every file is flipped in place, read as the commands read it, and mended. The everyday form flips each file a few times;
the slow one flips each many times, and starts the commands themselves on some. A recipe and DeepSpeed's JSON are what
the user says: a flip there that leaves a valid file is another wish, which no reader could tell; it is counted apart.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mnmt_ds.analysis.files import analysis_directory, read_sensitivities, write_sensitivity
from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.engine.checkpointing.verification import fault_of, write_manifest
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation.report import read_lines, read_verified_report
from mnmt_ds.file_integrity import read_checked_json
from mnmt_ds.files import sha256
from mnmt_ds.models.weights import read_weights
from mnmt_ds.record_lines import read_records, write_lines
from mnmt_ds.run_files import METRICS, RECIPE, read_recipe, recipe_fault, write_recipe
from mnmt_ds.study.run_state import MARK, read_mark, write_mark
from mnmt_ds.teachers.shard_storage import ShardStorage
from mnmt_ds.teachers.state_storage import BlockKey, StateStorage
from tests.evaluation.runs import curve_run, evaluated, model_run
from tests.tiny import ROOT, recipe

Read = Callable[[], Any]


class Part(NamedTuple):
    """Files that are read together."""

    files: Sequence[Path]
    read: Read
    """Gives what can be compared; raises a UserError that names what is wrong, or returns a sentence that does."""
    is_wish: bool = False
    """The files are what the user says."""
    place: Path | None = None
    """What an error names instead of the file: the directory of a tokenizer."""


def bits(path: Path, count: int, draw: random.Random) -> list[int]:
    """The first and the last bit of a file, and others at random."""
    last = 8 * path.stat().st_size - 1
    return sorted({0, last, *(draw.randrange(last + 1) for _ in range(count - 2))})[:count]


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """Flips a bit of a file in place for as long as the block runs."""

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))

    flip()
    try:
        yield
    finally:
        flip()


def outcome(read: Read) -> tuple[str, Any]:
    """("said", the line) or ("read", what was read)."""
    try:
        value = read()
    except UserError as error:
        return "said", str(error)
    return ("said", value) if isinstance(value, str) else ("read", value)


def count_outcomes(parts: Sequence[Part], flips: int) -> Counter[str]:
    """Flips ``flips`` bits of every file; how many were named, without effect, another wish, or silent."""
    draw, counts, silent = random.Random(17), Counter[str](), []
    for part in parts:
        kind, whole = outcome(part.read)
        assert kind == "read", whole
        for path in part.files:
            for bit in bits(path, flips, draw):
                with flipped(path, bit):
                    kind, value = outcome(part.read)
                counts["flips"] += 1
                if kind == "said":
                    assert "\n" not in value and str(part.place or path) in value, value
                    counts["named"] += 1
                elif same(value, whole):
                    counts["without effect"] += 1
                elif part.is_wish:
                    counts["another wish"] += 1
                else:
                    silent.append((str(path), bit))
        kind, value = outcome(part.read)
        assert kind == "read" and same(value, whole), "the files are mended"
    assert not silent, silent
    return counts


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return repr(left) == repr(right)


def prepared_data(data: Path) -> Part:
    def read() -> Any:
        corpus = Corpus.open(data)
        splits = [corpus.split(pair, name) for pair in corpus.pairs for name in ("train", "dev", "test")]
        ids = [[[side.tolist() for side in split.pieces(i)] for i in range(len(split))] for split in splits]
        return corpus.manifest, ids, [split.text() for split in splits], corpus.tokenizer.hash

    manifest = Corpus.open(data).manifest
    return Part([data / "manifest.json", *(data / name for name in manifest["files"] if "tokenizer" not in name)], read)


def tokenizer(directory: Path) -> Part:
    def read() -> Any:
        opened = Tokenizer.open(directory)
        return opened.hash, opened.languages, opened.encode("the red house", "en")

    return Part(sorted(directory.glob("*")), read, place=directory)


def model(run: Path) -> Part:
    def read() -> Any:
        translator = open_translator(run / "best")
        return dict(translator.model.state_dict()), translator.description

    return Part([run / "best" / name for name in ("model.safetensors", "model.json")], read)


def teacher(run: Path) -> Part:
    files = [run / "snapshots" / "7" / name for name in ("model.safetensors", "model.json")]
    return Part(files, lambda: read_weights(run / "snapshots" / "7"))


def checkpoint(run: Path) -> Part:
    """In the form that a run writes; DeepSpeed reads nothing of it before this is well."""
    path = run / "checkpoints" / "step_4"
    (path / "student").mkdir(parents=True)
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        torch.save({"weights": torch.arange(300.0)}, path / "student" / name)
    (path / "state.json").write_text(json.dumps({"update": 4}))
    write_manifest(path, {str(p.relative_to(path)): sha256(p) for p in path.rglob("*") if p.is_file()})

    def read() -> Any:
        return fault_of(path) or read_checked_json(path / "manifest.json")

    return Part([file for file in path.rglob("*") if file.is_file()], read)


def results(run: Path) -> list[Part]:
    """Metrics, recipe, evaluation and a study's mark."""
    write_recipe(run, (run / RECIPE).read_text())
    (run / METRICS).write_text(write_lines(json.loads(line) for line in (run / METRICS).read_text().splitlines()))
    evaluated(run, {"hi-en": ["the red house", "an old river"]}, {"hi-en": ["the red house", "the old river"]})
    write_mark(run, evaluate="--beam 2", gathered={"a": 1})
    texts = run / "evaluation" / "best.test"

    def evaluation() -> Any:
        report = read_verified_report(texts.with_name("best.test.json"))
        return {key: report[key] for key in ("pairs", "macro", "classes")}, read_lines(texts, "hyp")

    def mark() -> Any:
        """A mark that cannot be trusted is none: the run is evaluated again."""
        return {key: value for key, value in read_mark(run).items() if key in ("evaluate", "gathered")} or str(
            run / MARK
        )

    return [
        Part([run / METRICS], lambda: read_records(run / METRICS)),
        Part([run / RECIPE], lambda: recipe_fault(run) or read_recipe(run)),
        Part([*sorted(texts.glob("*")), texts.with_name("best.test.json")], evaluation),
        Part([run / MARK], mark),
    ]


def sensitivities(run: Path) -> Part:
    directory = analysis_directory(run, "best", "cd")
    for number, name in enumerate("ab"):
        write_sensitivity(directory, name, {"w": torch.arange(40.0) + number, "v": torch.ones(3, 5)})
    return Part(sorted(directory.glob("*")), lambda: read_sensitivities(run, "best", "cd"))


def kept_states(directory: Path) -> list[Part]:
    """What a run keeps on disk of its teachers: shards are taken from the checkpoint again, states computed again."""
    said: list[str] = []
    shard = torch.arange(5000.0)
    shards = ShardStorage(torch.float32, 0, directory / "shards", lambda version: shard, said.append)
    shards.put(3, shard)
    states = StateStorage(0, 10**6, 64, directory / "states", said.append)
    key, rows = BlockKey(3, 0, 0), torch.arange(64 * 50, dtype=torch.int64).to(torch.uint8).view(50, 64)
    states.put(key, rows)
    file = Path(f"/proc/self/fd/{next(iter(states._files.values()))}")  # it has no name of its own

    def read_states() -> Any:
        return rows if states.get(key) is None else states.get(key)

    return [Part([shards._files[3].path], lambda: shards.get(3)), Part([file], read_states)]


def wishes(data: Path, directory: Path) -> list[Part]:
    """The user's recipe and DeepSpeed configuration."""
    path, config = directory / "recipe.yaml", directory / "zero1.json"
    path.write_text(dump(recipe(data, directory / "run")))
    config.write_bytes((ROOT / "ds_configs" / "zero1.json").read_bytes())
    return [
        Part([path], lambda: load_recipe(path).model_dump(), is_wish=True),
        Part([config], lambda: ds_config.read(config), is_wish=True),
    ]


@pytest.fixture(scope="module")
def parts(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Part]:
    """Every file that commands read, in a copy of its own."""
    place = tmp_path_factory.mktemp("flips")
    data = place / "data"
    shutil.copytree(tiny_corpus, data, ignore=shutil.ignore_patterns("work"))
    run, curves = model_run(place / "run", data), curve_run(place / "curves", "plain", {"name": "translation"})
    return [
        prepared_data(data), tokenizer(data / "tokenizer"), tokenizer(run / "tokenizer"), model(run), teacher(run),
        checkpoint(run), *results(curves), sensitivities(run), *kept_states(place), *wishes(data, place),
    ]  # fmt: skip


def test_a_flipped_bit_is_named_or_has_no_effect(parts: list[Part]) -> None:
    counts = count_outcomes(parts, 2)
    assert counts["flips"] > 110 and counts["named"] > 0.8 * counts["flips"]


@pytest.mark.slow
def test_many_flipped_bits_are_named_or_have_no_effect(parts: list[Part]) -> None:
    counts = count_outcomes(parts, 12)
    print(dict(counts))
    assert counts["flips"] > 600 and counts["named"] > 0.8 * counts["flips"]


@pytest.mark.slow
def test_commands_end_in_one_line(parts: list[Part], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The commands themselves, a flip in a file that each reads: exit code 2 and one line that names it."""
    data, run = parts[0].files[0].parent, parts[3].files[0].parent.parent
    curves, path = parts[6].files[0].parent, tmp_path / "recipe.yaml"
    path.write_text(dump(recipe(data, tmp_path / "run")))
    text = tmp_path / "text"
    text.write_text("the red house\n")
    ids = [data / "bin" / f"fr-en.{split}.{kind}" for split in ("train", "dev") for kind in ("bin", "idx")]
    weights, texts = run / "best" / "model.safetensors", sorted(curves.glob("evaluation/best.test/*"))
    commands: dict[tuple[str, ...], list[Path]] = {
        ("train", str(path), "--dry-run"): ids,
        ("plan", str(path), "--no-probe"): [data / "bin" / "bs-en.train.idx", data / "manifest.json"],
        ("evaluate", str(run), "--data", str(data), "--beam", "1", "--split", "dev", "--fresh"): [
            data / "text" / "hi-en.dev.tgt", data / "bin" / "hi-en.dev.bin", weights,
        ],
        ("translate", str(run), "--pair", "fr-en", str(text)): [weights],
        ("export", str(run), str(tmp_path / "exported")): [weights],
        ("compare", str(curves), "-o", str(tmp_path / "out")): [curves / METRICS, *texts],
    }  # fmt: skip
    draw = random.Random(3)
    for command, files in commands.items():
        for file in files:
            for bit in bits(file, 4, draw)[1:3]:
                with flipped(file, bit):
                    code = main(list(command))
                lines = [
                    line for line in capfd.readouterr().err.splitlines() if line.startswith(f"mnmt-ds {command[0]}:")
                ]
                assert code == 2 and len(lines) == 1 and str(file) in lines[0], (command, file, bit, lines)
        assert main(list(command)) == 0, command
