"""Writes parallel text of three made-up languages and English: ``python docs/examples/toy_corpus.py DIRECTORY``.

The languages (qaa, qab, qac: codes that ISO 639 leaves for private use) have words and a word order of their own, and
2,000, 700 and 200 sentence pairs. Where English has two words for one (old/ancient), either is taken by chance, so
that a model that learns the training text by heart grows worse on other text. Two languages come as TSV files, one as
a Moses pair of compressed files; --opus writes a zip archive as OPUS offers them, and English text. Good for trying the commands, and for nothing else: a score on this text says nothing
about a method.
"""

import argparse
import gzip
import random
import zipfile
from pathlib import Path

NOUNS = (
    "cat/kitten dog/hound bird horse/pony teacher/tutor baker doctor/physician sailor/seaman king/monarch child/kid"
    " river/stream hill/mound bridge house/home garden/yard boat/ship letter/note song/tune"
)
VERBS = "sees/notices finds/discovers likes/loves follows/trails paints/colours draws/sketches carries/takes sells"
ADJECTIVES = "old/ancient young red green small/little tall/high quiet/silent happy/glad clever/wise wooden golden"
PLACES = "market forest harbour castle school village kitchen station"
TIMES = "today yesterday often never slowly again"
SIZES = {"qaa": 2000, "qab": 700, "qac": 200}
SYLLABLES = {
    "qaa": "ba ke li mo nu ra se ti vo zu da fe",
    "qab": "shan tok rel vim dar pesh lun gor mik",
    "qac": "a e ulu iki oma ata eni uso",
}


def words_of(language: str) -> dict[str, str]:
    """A made-up word for every English one, the same in every run."""
    generator = random.Random(language)
    english = " ".join((NOUNS, VERBS, ADJECTIVES, PLACES, TIMES)).split()
    translations: dict[str, str] = {}
    for word in english:
        made_up = ""
        while not made_up or made_up in translations.values():
            made_up = "".join(generator.choices(SYLLABLES[language].split(), k=generator.randint(2, 3)))
        translations[word] = made_up
    return translations


def phrase(generator: random.Random) -> tuple[str, str]:
    """A noun and an adjective, which is empty in one of three phrases."""
    adjective = generator.choice(ADJECTIVES.split()) if generator.random() < 2 / 3 else ""
    return generator.choice(NOUNS.split()), adjective


def sentence(generator: random.Random, language: str, words: dict[str, str]) -> tuple[str, str]:
    """A sentence of the language and its English translation."""
    subject, thing = phrase(generator), phrase(generator)
    verb, place, time = (generator.choice(kind.split()) for kind in (VERBS, PLACES, TIMES))

    def english(noun: str, adjective: str) -> str:
        return " ".join(generator.choice(word.split("/")) for word in ("the", adjective, noun) if word)

    def foreign(noun: str, adjective: str) -> str:
        parts = [words[noun], words[adjective]] if adjective else [words[noun]]
        return " ".join(parts if language == "qaa" else reversed(parts))

    first, second, at = foreign(*subject), foreign(*thing), words[place]
    orders = {
        "qaa": (words[time], first, second, words[verb], "na", at),  # subject, object, verb
        "qab": (words[verb], first, second, at + "in", words[time]),  # verb, subject, object
        "qac": (first, words[verb], second, "o", at, words[time]),
    }
    text = f"{english(*subject)} {generator.choice(verb.split('/'))} {english(*thing)} in the {place} {time}."
    return " ".join(orders[language]) + ".", text[0].upper() + text[1:]


def write_opus(directory: Path) -> None:
    """Writes DIRECTORY/Toy.qaa-en.zip, a Moses pair with its licence, and news.en.gz, 1,500 English sentences."""
    generator, words = random.Random("archive"), words_of("qaa")
    pairs = [sentence(generator, "qaa", words) for _ in range(2000)]
    with zipfile.ZipFile(directory / "Toy.qaa-en.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "Made-up text.\n")
        archive.writestr("LICENSE", "Public domain.\n")
        for side, language in enumerate(("qaa", "en")):
            archive.writestr(f"Toy.qaa-en.{language}", "".join(f"{pair[side]}\n" for pair in pairs))
    with gzip.open(directory / "news.en.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{sentence(generator, 'qaa', words)[1]}\n" for _ in range(1500))
    print(f"{directory}: Toy.qaa-en.zip with {len(pairs):,} sentence pairs, news.en.gz with 1,500 sentences")


def main() -> None:
    """Writes DIRECTORY/qaa-en.tsv, qab-en.tsv, qac-en.qac.gz and qac-en.en.gz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the files go")
    parser.add_argument("--share", type=float, default=1.0, help="share of the sentence pairs (default: all)")
    parser.add_argument("--opus", action="store_true", help="write Toy.qaa-en.zip and news.en.gz instead")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    if args.opus:
        write_opus(args.directory)
        return
    for language, size in SIZES.items():
        generator, words = random.Random(f"text of {language}"), words_of(language)
        pairs = [sentence(generator, language, words) for _ in range(max(1, round(size * args.share)))]
        if language == "qac":
            for side, lang in enumerate((language, "en")):
                with gzip.open(args.directory / f"qac-en.{lang}.gz", "wt", encoding="utf-8") as file:
                    file.writelines(f"{pair[side]}\n" for pair in pairs)
        else:
            with (args.directory / f"{language}-en.tsv").open("w", encoding="utf-8") as file:
                file.writelines(f"{source}\t{target}\n" for source, target in pairs)
        print(f"{language}-en: {len(pairs):,} sentence pairs, such as: {' = '.join(pairs[0])}")


if __name__ == "__main__":
    main()
