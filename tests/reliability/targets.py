"""Every file that a command reads, each with a valid example and the functions that read it."""

import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.reliability.mutations import BINARY, JSON, JSONL, TEXT, Damage
from tests.tiny import ROOT


class Target(NamedTuple):
    """A valid file, and what reads it."""

    path: Path
    damages: tuple[Damage, ...]
    read: Callable[[], Any]
    """Reads all that commands read of the file."""
    weight: int = 4
    """Examples of the everyday form."""


def targets(root: Path, corpus: Path) -> dict[str, Target]:
    """Writes valid files and lists them.

    Args:
        root: an empty directory.
        corpus: a prepared corpus, of which a copy is damaged.
    """
    return {
        **dict(_configuration(root / "configuration")),
        **dict(_corpus(root / "corpus", corpus)),
        **dict(_run(root / "run", corpus)),
        **dict(_finished_runs(root / "finished")),
        **dict(_readers(root / "readers")),
    }


def _configuration(root: Path) -> Iterator[tuple[str, Target]]:
    """Recipes, studies, DeepSpeed's JSON, hostfile, weights and losses that recipes name."""
    from mnmt_ds.config import key_locations
    from mnmt_ds.engine.parallel import ds_config
    from mnmt_ds.engine.recipe import load_recipe
    from mnmt_ds.engine.settings import TrainSettings
    from mnmt_ds.launching.hostfile import read_hostfile
    from mnmt_ds.methods.alpha_rules import read_weights
    from mnmt_ds.samplers.chi_ibr import read_baseline
    from mnmt_ds.study.plan import read_study

    root.mkdir()
    recipes = ROOT / "launchers" / "recipes"
    for name in ("gettext_pareto_auto", "cd_id/row8_cd_id", "main_lssd"):
        path = root / f"{Path(name).name}.yaml"
        text = (recipes / f"{name}.yaml").read_text().replace("extends: ", f"extends: {recipes}/{Path(name).parent}/")
        path.write_text(text)
        yield f"recipe {name}", Target(path, TEXT, lambda path=path: load_recipe(path, ["train.lr=1e-3"]), 12)  # type: ignore[misc]
    base = root / "base.yaml"
    base.write_text(f"data: {{pairs: [fr-en], directory: {root}/data}}\n")
    study = root / "study.yaml"
    study.write_text(
        "title: t\ndirectory: runs/s\nrecipe: base.yaml\nseeds: [1, 2]\ncap: {max_epochs: 3}\nbaseline: plain\n"
        "conditions: {small: {set: {model.dropout: 0.2}}, large: {rows: {lssd: {train.lr: 1.0e-3}}}}\n"
        "rows:\n  plain:\n  lssd: {set: {method: {name: lssd}}, times: 2, launch: {ranks: 2}}\n"
        "  next: {set: {name: '{run.plain}'}, conditions: [small]}\n  pairs: {per_pair: true}\n"
        "after: ['analyse sensitivity {run.plain} -o {report}/a']\n"
    )
    yield "study", Target(study, TEXT, lambda: (read_study(study, ["cap.max_epochs=2"]), key_locations(study)), 12)
    hosts = root / "hosts"
    hosts.write_text("# nodes\na.example slots=4\nb slots=2\n")
    yield "hostfile", Target(hosts, TEXT, lambda: read_hostfile(hosts))
    for stage in (1, 3):
        config = root / f"zero{stage}.json"
        config.write_bytes((ROOT / "ds_configs" / f"zero{stage}.json").read_bytes())

        def read_config(config: Path = config) -> None:
            filled = ds_config.resolve(ds_config.read(config), TrainSettings(), 2, str(config))
            ds_config.zero_stage(filled)

        yield f"DeepSpeed's JSON, stage {stage}", Target(config, JSON, read_config, 12)
    weights = root / "weights.json"
    weights.write_text(json.dumps({"a": {"bs-en": 0.5, "fr-en": 1}, "b": {"bs-en": 0.0, "fr-en": 0.25}}))
    yield "weights of students", Target(weights, JSON, lambda: read_weights(weights, ["bs-en", "fr-en"], ["a", "b"]))
    losses = root / "losses.json"
    losses.write_text(json.dumps({"bs-en": 3.5, "fr-en": 2}))
    yield "losses of a plain run", Target(losses, JSON, lambda: read_baseline(losses, ["bs-en", "fr-en"]))


def _corpus(root: Path, corpus: Path) -> Iterator[tuple[str, Target]]:
    """What ``prepare`` wrote."""
    import shutil

    from mnmt_ds.data.build_cache import load_output
    from mnmt_ds.data.corpus import Corpus, changed_settings
    from mnmt_ds.data.indexed import IndexedDataset
    from mnmt_ds.data.settings import DataSettings
    from mnmt_ds.data.tokenizer import Tokenizer

    shutil.copytree(corpus, root)

    def read_corpus() -> None:
        opened = Corpus.open(root)
        changed_settings(opened.manifest, DataSettings.model_validate({"pairs": ["bs-en"]}))
        for pair in opened.pairs:
            for name in ("train", "dev", "test"):
                split = opened.split(pair, name)
                [split.pieces(i) for i in range(min(3, len(split)))]
                split.text()

    yield "manifest.json", Target(root / "manifest.json", JSON, read_corpus, 8)
    tokenizer = root / "tokenizer" / "tokenizer.json"
    yield "tokenizer.json", Target(tokenizer, JSON, lambda: Tokenizer.open(root / "tokenizer"), 6)
    yield (
        "a tokenizer's model",
        Target(root / "tokenizer" / "spm.model", BINARY, lambda: Tokenizer.open(root / "tokenizer")),
    )

    def read_indexed() -> None:
        data = IndexedDataset(root / "bin" / "bs-en.dev")
        [data[i] for i in range(min(len(data), 100))]
        data.documents.tolist()

    for ending in ("idx", "bin"):
        yield f"index .{ending}", Target(root / "bin" / f"bs-en.dev.{ending}", BINARY, read_indexed, 8)
    records = sorted((root / "work").rglob("*.json")) if (root / "work").is_dir() else []
    for record in records[:1]:
        read = partial(load_output, root / "work", record.parent.parent.name, record.parent.name)
        yield "record of an output of prepare", Target(record, JSON, read, 6)


def _run(root: Path, corpus: Path) -> Iterator[tuple[str, Target]]:
    """A run with a model: what ``translate``, ``evaluate``, ``export`` and ``--resume`` read."""
    from mnmt_ds.cli import translate
    from mnmt_ds.decoding.loading import open_translator
    from mnmt_ds.engine.checkpointing import checkpoint
    from mnmt_ds.engine.checkpointing.verification import fault_of
    from mnmt_ds.engine.parallel.stage_balance import read_times
    from mnmt_ds.run_files import data_directory
    from mnmt_ds.study.run_state import MARK, read_mark
    from tests.evaluation.runs import model_run

    model_run(root, corpus)
    best = (root / "best").resolve()

    def read_model() -> None:
        translator = open_translator(root, "cpu")
        translator.frame("bs-en")
        open_translator(best, "cpu", data=corpus, pair="bs-en")

    yield "model.json", Target(best / "model.json", JSON, read_model, 10)
    yield "model.safetensors", Target(best / "model.safetensors", BINARY, read_model, 4)
    yield "tokenizer of a run", Target(root / "tokenizer" / "tokenizer.json", JSON, read_model, 3)
    yield "recipe of a run", Target(root / "recipe.yaml", TEXT, lambda: data_directory(root), 8)
    step = root / "checkpoints" / "step_9"
    step.mkdir(parents=True)
    (step / "state.json").write_text(json.dumps({"update": 9, "students": {"student": {"epoch": 1}}}))
    from mnmt_ds.files import sha256

    (step / "manifest.json").write_text(json.dumps({"state.json": sha256(step / "state.json")}))

    def read_checkpoint() -> None:
        fault_of(step)
        checkpoint.read_state(step)
        checkpoint.complete(root)

    yield "manifest of a checkpoint", Target(step / "manifest.json", JSON, read_checkpoint, 8)
    yield "state.json", Target(step / "state.json", JSON, read_checkpoint, 4)
    times = root / "stage_times.json"
    times.write_text('{"seconds": [0.1, 0.2, 0.3]}')
    yield "times of layers", Target(times, JSON, lambda: read_times(times))
    (root / MARK).write_text('{"trained": {"a": 1}}')
    yield "mark of a study's run", Target(root / MARK, JSON, lambda: read_mark(root))
    text = root / "input.txt"
    text.write_text("the red cat\n\nein \u00e9t\u00e9 \u2028 \n", encoding="utf-8")
    yield "text to translate", Target(text, (*TEXT, *BINARY), lambda: list(translate._windows([text], 9, False)))


def _finished_runs(root: Path) -> Iterator[tuple[str, Target]]:
    """Two evaluated runs: what ``compare``, ``study`` and ``evaluate --against`` read."""
    from mnmt_ds.evaluation import report
    from mnmt_ds.evaluation.scores import ScoreSettings
    from mnmt_ds.reporting.comparison import compare_groups, group_runs
    from mnmt_ds.reporting.frontier import find_experiments, frontier_markdown
    from mnmt_ds.reporting.metrics import with_resource_classes
    from mnmt_ds.reporting.runs import read_runs, student_directories
    from mnmt_ds.reporting.summary import pair_rows, run_rows, score_signatures, summary_markdown
    from mnmt_ds.run_files import METRICS, RECIPE
    from mnmt_ds.tracking import read_records
    from tests.evaluation.runs import curve_run, evaluated

    references = {pair: [f"the {pair} file {i} is here" for i in range(4)] for pair in ("bs-en", "hi-en")}
    runs = [root / "plain", root / "lssd"]
    sizes = {"bs-en": 150, "hi-en": 450}
    for run, method in zip(runs, ({"name": "translation"}, {"name": "lssd", "alpha": 2.0}), strict=True):
        curve_run(run, run.name, method, epochs=4, sizes=sizes)
        evaluated(run, references, references)  # type: ignore[arg-type]
    settings = ScoreSettings(samples=3)

    def compare() -> None:
        read = read_runs([directory for run in runs for directory in student_directories(run)], "best", "test")
        read = [with_resource_classes(run, settings) for run in read]
        part = compare_groups(group_runs(read), settings)
        summary_markdown(part)
        frontier_markdown(find_experiments(read))
        score_signatures(read)
        run_rows(read)
        pair_rows(read, part.sizes)

    def against() -> None:
        report.read_report(scores)
        report.bootstrap_against(runs[1], runs[0], "best", "test", settings)

    scores = report.report_path(runs[1], "best", "test")
    yield "recipe of a finished run", Target(runs[1] / RECIPE, TEXT, compare, 6)
    yield "metrics.jsonl", Target(runs[1] / METRICS, JSONL, lambda: (read_records(runs[1] / METRICS), compare()), 10)
    yield "report.json", Target(scores, JSON, lambda: (against(), compare()), 10)
    for kind in ("hyp", "ref"):
        yield (
            f"evaluated .{kind}",
            Target(scores.with_suffix("") / f"bs-en.{kind}", BINARY, lambda: (against(), compare()), 4),
        )


def _readers(root: Path) -> Iterator[tuple[str, Target]]:
    """Every corpus format, and compressed files."""
    from mnmt_ds.data.cleaning_rules import CleaningRules, RowBlock, clean_block
    from mnmt_ds.data.readers.registry import READERS
    from mnmt_ds.data.readers.sources import block_rows, corpus_parts, files_of_part
    from mnmt_ds.data.settings import CleanSettings, DataSettings

    root.mkdir()
    rules = CleaningRules("fr", "en", 1, CleanSettings(bad_lines="drop", min_script=0), 1)

    def reading(settings: DataSettings) -> Callable[[], None]:
        def read() -> None:
            for part in corpus_parts(settings, "fr-en", "train", "files"):
                for rows in block_rows(part.read()):
                    clean_block(RowBlock(tuple(part.files), 0, part.catalog, rows), rules)

        return read

    def settings_of(entry: dict[str, Any], catalogs: Path) -> DataSettings:
        values = {"pairs": ["fr-en"], "corpora": {"fr-en": {"train": [entry]}}, "catalogs": [str(catalogs)]}
        return DataSettings.model_validate(values)

    for name, reader in READERS.items():
        if not reader.needs and name != "gettext":
            continue  # without a file
        folder = root / name
        folder.mkdir()
        settings = settings_of({"format": name, **reader.example(folder)}, folder)
        parts = corpus_parts(settings, "fr-en", "train", "files")
        files = [file for part in parts for file in files_of_part(part)]
        # Apache Arrow's own files are not damaged: what reads them is not ours
        for file in [file for file in files if file.suffix != ".arrow"]:
            kinds = JSON if file.suffix == ".json" else BINARY if file.suffix == ".mo" else (*TEXT, *BINARY)
            yield f"{name} {file.name}", Target(file, kinds, reading(settings), 4)
    for ending, compress in compressions():
        for name, content in (("tsv", _many_rows()), ("tmx", _many_units())):
            path = root / f"text.{name}.{ending}"
            path.write_bytes(compress(content))
            settings = settings_of({"format": name, "path": str(path)}, root)
            yield f"{name} .{ending}", Target(path, BINARY, reading(settings), 4)


def compressions() -> Iterable[tuple[str, Callable[[bytes], bytes]]]:
    """Endings of compressed files, and what compresses."""
    import zstandard

    return (("gz", gzip.compress), ("xz", lzma.compress), ("zst", zstandard.ZstdCompressor().compress))


def _many_rows() -> bytes:
    return b"".join(b"mot %d ici\tword %d here\n" % (i, i) for i in range(400))


def _many_units() -> bytes:
    unit = b'<tu><tuv xml:lang="fr"><seg>mot %d ici</seg></tuv><tuv xml:lang="en"><seg>word %d here</seg></tuv></tu>'
    return b"<tmx><body>" + b"\n".join(unit % (i, i) for i in range(400)) + b"</body></tmx>"
