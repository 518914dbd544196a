"""Two or more examples of every command, which its ``--help`` and the documentation's page of commands show."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "prepare": (
        ("prepare recipe.yaml", "read, clean and tokenise what changed since the last time"),
        ("prepare recipe.yaml --preview preview.html", "first look at what each cleaning rule would drop"),
    ),
    "validate": (
        ("validate recipe.yaml", "list every fault of recipe, text and prepared corpus"),
        ("validate recipe.yaml data.clean.max_ratio=2.5", "try a stricter rule without writing anything"),
    ),
    "import": (
        ("import models/nllb-200-distilled-600M nllb", "take a transformers directory"),
        ("import runs/parent parent", "take a run's best model"),
    ),
    "plan": (
        ("plan recipe.yaml --devices 8 --memory 80", "what fits on eight GPUs of 80 GB, teachers included"),
        ("plan recipe.yaml --devices 64 --memory 40 pipeline.stages=4", "the same along four pipeline stages"),
    ),
    "preflight": (
        ("preflight recipe.yaml --hostfile hosts", "check every node before the start"),
        ("preflight recipe.yaml --launcher slurm", "within an allocation of Slurm"),
    ),
    "train": (
        ("train recipe.yaml --dry-run", "check everything, build native code, train nothing"),
        ("train recipe.yaml --resume train.max_epochs=60", "go on from the last checkpoint, for longer"),
        ("train --help-config method.lssd", "settings of a section, as YAML"),
    ),
    "translate": (
        ("translate runs/lssd --pair fr-en input.fr -o output.en", "a line for every line"),
        ("translate runs/lssd --pair fr-en --nbest 5 input.fr", "five hypotheses each, with scores"),
    ),
    "synthesise": (
        ("synthesise runs/en_bs news.en.gz --pair bs-en --direction back --sample -o bt", "back-translation"),
        ("synthesise runs/large train.bs --pair bs-en --direction forward -o distilled", "sequence-level distillation"),
    ),
    "evaluate": (
        ("evaluate runs/lssd --against runs/plain", "BLEU and chrF of every pair, with the gain's interval"),
        ("evaluate runs/lssd --pairs fr-en --test wmt.fr wmt.en --metrics chrf++,ter", "any files"),
    ),
    "compare": (
        ("compare runs/plain runs/lssd -o report", "one page, CSV files, a table"),
        ("compare runs/seed* -o report --high 100000 --very-low 10000", "seeds of a run are averaged"),
    ),
    "study": (
        ("study study.yaml -j 2", "all runs, two at a time, then the tables; again: what is missing"),
        ("study study.yaml --only plain lssd --max-epochs 4", "two rows, cut short"),
    ),
    "analyse": (
        ("analyse sensitivity runs/mmt runs/mmt_id -o analysis", "comes first"),
        ("analyse prune runs/mmt runs/mmt_id -o analysis --ratios 0,0.2,0.4", "then the others"),
    ),
    "average": (
        ("average mean runs/lssd", "the mean of a run's best and last models"),
        ("average mean runs/a/best runs/b/best", "the mean of two runs' best"),
    ),
    "export": (
        ("export runs/lssd m2m100", "a transformers directory"),
        ("export runs/lssd ct2 --format ctranslate2", "for CTranslate2"),
    ),
    "bench": (
        ("bench throughput", "tokens and sentences a second, plain and distilling"),
        ("bench loss --peers ours eager --rounds 3", "the fused loss beside PyTorch's"),
    ),
}
"""(words after ``mnmt-ds``, what they do) by command."""


def printed_examples(command: str) -> str:
    """Formats a command's examples as ``--help`` prints them.

    Args:
        command: a key of ``EXAMPLES``.

    Returns:
        Lines: what an example does, and the example below it.
    """
    lines = [line for words, meaning in EXAMPLES[command] for line in (f"  # {meaning}", f"  mnmt-ds {words}")]
    return "\n".join(["examples:", *lines])
