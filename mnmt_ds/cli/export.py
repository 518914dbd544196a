"""Write a model as a transformers M2M100 directory, or for CTranslate2."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnmt_ds.config.paths import path_option

if TYPE_CHECKING:
    from mnmt_ds.decoding.loading import Translator

HELP = "write a model for transformers (M2M100) or CTranslate2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    parser.add_argument("model", type=path_option, help="model directory (run/best, run/best_<pair>) or run")
    parser.add_argument("out", type=path_option, help="directory to write")
    parser.add_argument(
        "--format", choices=("transformers", "ctranslate2"), default="transformers", help="default: %(default)s"
    )
    parser.add_argument(
        "--pair",
        help="pair whose tags become the files' defaults (default: the model's first; of M2M-100 and NLLB none)",
    )
    parser.add_argument(
        "--restore", type=path_option, metavar="BASE",
        help="of a model with a trimmed vocabulary: the model that it started from, whose other words are put back",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Writes the model in another toolkit's form, and prints how it is used.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.

    Raises:
        UserError: when the directory is not empty, or the model cannot be written exactly.
    """
    from mnmt_ds.decoding.loading import open_translator, warn_untrained_pair
    from mnmt_ds.errors import UserError, file_fault
    from mnmt_ds.evaluation.model_card import front_matter, model_card
    from mnmt_ds.files import new_directory

    if args.format == "ctranslate2" and args.restore:
        raise UserError("--restore: is for --format transformers; CTranslate2 takes the trimmed vocabulary as it is")
    device = "meta" if args.format == "transformers" else "cpu"
    translator = open_translator(args.model, device, pair=args.pair or "")
    is_family, pairs = bool(translator.tokenizer.originals), translator.description["pairs"]
    pair = args.pair or ("" if is_family or not pairs else pairs[0])
    if pair or not is_family:
        translator.frame(pair)
        warn_untrained_pair(translator, pair)
    try:
        with new_directory(args.out) as out:
            notes = (
                write_transformers(translator, pair, out, args.restore)
                if args.format == "transformers"
                else write_ctranslate2(translator, pair, out)
            )
            readme = (
                family_readme(args.format, translator) if is_family else _readme(args.format, translator, pair, notes)
            )
            head = front_matter(translator.description, args.format)
            card = model_card(translator.directory, translator.description)
            (out / "README.md").write_text(f"{head}{readme}\n{card}", encoding="utf-8")
    except Exception as error:
        raise file_fault(error, args.out) or error from None
    print("\n".join([f"{args.out}: {args.format}, defaults for {pair or 'no pair'}", *notes]))
    return 0


def write_transformers(translator: "Translator", pair: str, out: Path, restore: Path | None = None) -> list[str]:
    """Writes a transformers M2M100 directory: configurations, weights and, where it is exact, the tokenizer.

    The weights keep the type that they have in the model's file, and are in memory one at a time.

    Args:
        translator: the model, which needs no weights, with its tokenizer.
        pair: pair whose tags become the defaults; empty: none, of a pretrained model's tokenizer.
        out: directory to write to.
        restore: the model that one with a trimmed vocabulary started from.

    Returns:
        Notes for the user.

    Raises:
        UserError: where the vocabulary was trimmed and cannot be restored.
    """
    from mnmt_ds.data.tokenizer import EXPORTED
    from mnmt_ds.decoding.hf_tokenizer import family_files, files_with_pieces, new_tags, write_tokenizer
    from mnmt_ds.decoding.pretrained import open_for_export
    from mnmt_ds.models.export import m2m100_config
    from mnmt_ds.models.pretrained import describe_export, write_as_m2m100

    source, tokenizer = open_for_export(translator.directory, translator.tokenizer, restore)
    config = m2m100_config(source.settings, source.vocabulary_size, decoder_start(translator, pair))
    config["dtype"] = str(source.dtype("embedding.weight")).removeprefix("torch.")
    write_as_m2m100(source, out / "model.safetensors")
    describe_export(source, out / "model.safetensors", translator.description, tokenizer.hash)
    tokenizer.save_to(out / EXPORTED)
    generation = {
        key: config[key] for key in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    }
    generation["max_length"] = max_length(translator)
    if tokenizer.originals:
        for name, content in family_files(files_with_pieces(tokenizer), new_tags(tokenizer)).items():
            (out / name).write_bytes(content)
        generation = json.loads(tokenizer.originals.get("generation_config.json", json.dumps(generation)))
        if pair:
            generation["forced_bos_token_id"] = translator.frame(pair).target_prefix[0]
        notes = []
    else:
        banned = [0, 1, *range(tokenizer.piece_count, tokenizer.size)]
        generation |= dict(num_beams=5, early_stopping=True, length_penalty=1.0, suppress_tokens=banned)
        notes = write_tokenizer(tokenizer, translator.frame(pair), _samples(translator), out)
    for name, values in (("config.json", config), ("generation_config.json", generation)):
        (out / name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return notes


def max_length(translator: "Translator") -> int:
    """Computes the ``max_length`` with which transformers' ``generate`` reaches every length that ``translate`` does.

    Args:
        translator: the model.

    Returns:
        Tokens: all of the model's positions, and the decoder's first input, which transformers counts.
    """
    return translator.model.settings.max_positions + 1


def decoder_start(translator: "Translator", pair: str) -> int:
    """Looks up the decoder's first input.

    Args:
        translator: the model with its tokenizer.
        pair: source and target language; empty: of a pretrained model, whose decoder starts alike for all.

    Returns:
        The end symbol's id, or that of a tag.
    """
    from mnmt_ds.batch import EOS

    return translator.frame(pair).decoder_start if pair else EOS


def write_ctranslate2(translator: "Translator", pair: str, out: Path) -> list[str]:
    """Writes a CTranslate2 model; its tokens are the tokenizer's pieces and tags.

    Args:
        translator: the model with its tokenizer.
        pair: any pair; the decoder's start is given in every call where it is the target's tag.
        out: directory to write to.

    Returns:
        Notes for the user.

    Raises:
        UserError: when two tokens have the same text.
    """
    from mnmt_ds.data.tokenizer import EXPORTED
    from mnmt_ds.errors import UserError
    from mnmt_ds.models.export import save_ctranslate2

    tokenizer = translator.tokenizer
    names = [tokenizer.piece(i) for i in range(tokenizer.size)]
    if len(set(names)) < len(names):
        raise UserError(
            f"{translator.directory}: two of its tokens have the same text; CTranslate2 cannot tell them apart"
        )
    start = decoder_start(translator, pair)
    fixed = names[start] if start < tokenizer.piece_count else None
    save_ctranslate2(as_transformers(translator, pair), names, fixed, out)
    tokenizer.save_to(out / EXPORTED)
    return []


def as_transformers(translator: "Translator", pair: str) -> Any:
    """Makes a transformers object of the model.

    Args:
        translator: the model with its tokenizer.
        pair: pair whose target tag is the decoder's start.

    Returns:
        An M2M100ForConditionalGeneration.
    """
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    from mnmt_ds.models.export import m2m100_config, to_m2m100

    model = translator.model
    config = M2M100Config(**m2m100_config(model.settings, model.vocabulary_size, decoder_start(translator, pair)))
    result = M2M100ForConditionalGeneration(config)
    result.train(False)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    result.load_state_dict(to_m2m100(state), strict=False)
    result.tie_weights()
    return result


def _samples(translator: "Translator") -> list[str]:
    """Text that the written tokenizer must treat alike: the run's dev sets, where they are at hand."""
    from mnmt_ds.data.corpus import Corpus
    from mnmt_ds.errors import UserError
    from mnmt_ds.run_files import data_directory

    for run in list(translator.directory.absolute().parents)[:3]:
        directory = data_directory(run)
        if directory is not None:
            try:
                corpus = Corpus.open(directory)
                return [
                    line for pair in corpus.pairs for side in corpus.split(pair, "dev").text() for line in side[:500]
                ]
            except UserError:
                continue
    return ["a", "A b."]


def _readme(kind: str, translator: "Translator", pair: str, notes: list[str]) -> str:
    """The text of the README.md beside the model."""
    tokenizer, frame = translator.tokenizer, translator.frame(pair)
    prefix, suffix = ([tokenizer.piece(i) for i in ids] for ids in (frame.source_prefix, frame.source_suffix))
    shown = " ".join([*prefix, "PIECES", *suffix])
    lines = [f"# Exported by mnmt-ds for {kind}", "", f"Defaults are those of {pair}: the source is `{shown}`,"]
    lines += [f"the decoder starts with `{tokenizer.piece(frame.decoder_start)}`.", ""]
    lines += [text for note in notes for text in (f"{note}.", "")]
    if kind == "transformers" and not any(note.startswith("no tokenizer.json") for note in notes):
        lines += [
            "```python", "from transformers import AutoTokenizer, M2M100ForConditionalGeneration", "",
            "tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)",
            "model = M2M100ForConditionalGeneration.from_pretrained(DIRECTORY)",
            'inputs = tokenizer(["…"], return_tensors="pt", padding=True)',
            "print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))", "```", "",
            "Another pair: write its tags into the text, with `add_special_tokens=False`, and give `generate` its",
            "`decoder_start_token_id=tokenizer.convert_tokens_to_ids('__xx__')`. A text that spells a tag or `</s>` is",
            "read as that symbol. `max_length` in generation_config.json is the longest that the model can write;",
            "`mnmt-ds translate` stops at twice the source's tokens and 20.",
        ]  # fmt: skip
    elif kind == "ctranslate2":
        lines += _ctranslate2_code(translator, pair)
    return "\n".join(lines) + "\n"


def _ctranslate2_code(translator: "Translator", pair: str) -> list[str]:
    """How CTranslate2's files are used: code for a pair, and what differs for the others."""
    from mnmt_ds.data.language_pairs import split_pair
    from mnmt_ds.data.tokenizer import JOINT

    tokenizer = translator.tokenizer

    def words(ids: Iterable[int]) -> list[str]:
        return [tokenizer.piece(i) for i in ids]

    def begin(pair: str) -> list[str]:
        frame = translator.frame(pair)
        start_ids = [frame.decoder_start] if frame.decoder_start >= tokenizer.piece_count else []
        return words([*start_ids, *frame.target_prefix])

    frame = translator.frame(pair)
    models = [
        "spm.model" if JOINT in tokenizer.serialised else f"spm.{language}.model" for language in split_pair(pair)
    ]
    source = [*map(repr, words(frame.source_prefix)), "*source.encode('…', out_type=str)"]
    source += map(repr, words(frame.source_suffix))
    lines = [
        "```python", "import ctranslate2", "from sentencepiece import SentencePieceProcessor", "",
        f"source = SentencePieceProcessor(model_file=DIRECTORY + '/sentencepiece/{models[0]}')",
        f"target = SentencePieceProcessor(model_file=DIRECTORY + '/sentencepiece/{models[1]}')",
        "translator = ctranslate2.Translator(DIRECTORY)",
        "result = translator.translate_batch(",
        f"    [[{', '.join(source)}]],",
        f"    target_prefix=[{begin(pair)!r}], max_input_length=0, max_decoding_length={max_length(translator) - 1},",
        ")",
        "print(target.decode(result[0].hypotheses[0]))", "```", "",
        "One directory serves every pair: the decoder starts with the tag of the target language, the first word of",
        "`target_prefix`, which is no part of the result. `max_input_length=0` cuts no source; CTranslate2's own",
        "`max_decoding_length` is 256. `mnmt-ds translate` writes at most twice the source's tokens and 20.", "",
        "| pair | source | `target_prefix` |", "|---|---|---|",
    ]  # fmt: skip
    for each in translator.description["pairs"]:
        frame = translator.frame(each)
        shown = " ".join([*words(frame.source_prefix), "PIECES", *words(frame.source_suffix)])
        lines.append(f"| {each} | `{shown}` | `{' '.join(begin(each))}` |")
    return lines


def family_readme(kind: str, translator: "Translator") -> str:
    """Writes the README that explains how an export of a pretrained model's family is used.

    Args:
        kind: transformers or ctranslate2.
        translator: the model with its tokenizer.

    Returns:
        The text of the README.md beside the model.
    """
    tokenizer = translator.tokenizer
    tags = [tokenizer.piece(tokenizer.tag(language)) for language in tokenizer.languages[:2]]
    lines = [f"# Exported by mnmt-ds for {kind}", "", "Weights, and the tokenizer of the model they started from.", ""]
    if kind == "transformers":
        lines += [
            "```python", "from transformers import AutoTokenizer, M2M100ForConditionalGeneration", "",
            "tokenizer = AutoTokenizer.from_pretrained(DIRECTORY, src_lang=SOURCE)",
            "model = M2M100ForConditionalGeneration.from_pretrained(DIRECTORY)",
            'inputs = tokenizer(["…"], return_tensors="pt", padding=True)',
            f"tag = tokenizer.convert_tokens_to_ids('{tags[-1]}')",
            "output = model.generate(**inputs, forced_bos_token_id=tag)",
            "print(tokenizer.batch_decode(output, skip_special_tokens=True))", "```",
        ]  # fmt: skip
    else:
        lines += [
            f"Sources are the tokenizer's tokens with tag (such as `{tags[0]}`) and end symbol. Give `translate_batch`",
            f"the target's tag as `target_prefix`, such as `[['{tags[-1]}']]`, and drop it from the result.",
        ]
    return "\n".join(lines) + "\n"
