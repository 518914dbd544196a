"""How ``prepare`` scales: time and peak memory (sum over processes) on made-up text of any size.

    python -m tests.data.scale --pairs 5000000 --directory /tmp/scale

Peak memory is the largest sum, over the process and its workers, of resident memory without the pages of files that
they map, sampled five times a second; the sum with shared pages counted once (PSS) is printed beside it.
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

SHARES = {
    "bs-en": 0.004,
    "mr-en": 0.01,
    "hi-en": 0.02,
    "mk-en": 0.03,
    "el-en": 0.066,
    "bg-en": 0.1,
    "fr-en": 0.6,
    "ko-en": 0.17,
}
DEVANAGARI = "कखगघचजटडतदनपबमयरलवसह"
ALPHABETS = {
    "mr": DEVANAGARI,
    "hi": DEVANAGARI,
    "mk": "абвгдезиклмнопрст",
    "el": "αβγδεζικλμνοπρσ",
    "bg": "абвгдежзийклмноп",
    "ko": "가나다라마바사아자차카타파하고노도로모보",
}


def words(language: str, seed: int) -> np.ndarray:
    """60,000 made-up words: 3,000 stems of one to four syllables, the frequent ones short, with 20 endings."""
    draw = np.random.default_rng(seed)
    letters = ALPHABETS.get(language, "abcdefghijklmnoprstuvz")
    syllables = ["".join(letters[i] for i in draw.integers(0, len(letters), 2)) for _ in range(150)]
    stems = ["".join(syllables[i] for i in draw.integers(0, 150, 1 + rank // 800)) for rank in range(3000)]
    endings = ["", *("".join(letters[i] for i in draw.integers(0, len(letters), 1 + rank // 8)) for rank in range(19))]
    ranks = np.argsort(np.add.outer(np.log1p(np.arange(3000)), 2 * np.log1p(np.arange(20))), axis=None)
    return np.array([stems[rank // 20] + endings[rank % 20] for rank in ranks], object)


def write(directory: Path, pair: str, count: int) -> None:
    """Two files of ``count`` lines, Zipf's law, 4 to 36 words a line, one line in 50 a duplicate."""
    draw = np.random.default_rng(len(pair) + count)
    sides = pair.split("-")
    tables = [words(side, i) for i, side in enumerate(sides)]
    files = [(directory / f"{pair}.{side}").open("w", encoding="utf-8") for side in sides]
    last = ["", ""]
    for start in range(0, count, 20_000):
        lengths = draw.integers(4, 37, min(20_000, count - start))
        ranks = np.minimum(draw.zipf(1.15, int(lengths.sum())) - 1, len(tables[0]) - 1)
        chosen = [table[ranks] for table in tables]
        ends = np.cumsum(lengths)
        for i, (end, length) in enumerate(zip(ends, lengths, strict=True)):
            if i % 50:
                last = [" ".join(side[end - length : end]) for side in chosen]
            for file, line in zip(files, last, strict=True):
                file.write(f"{line}\n")
    for file in files:
        file.close()


def measure(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds; peak anonymous memory, peak PSS and largest process in MiB; children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command)
    peaks = {"anonymous": 0.0, "pss": 0.0, "largest": 0.0}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.2):
            total = pss = 0.0
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for member in family:
                try:
                    memory = member.memory_full_info()
                except psutil.Error:
                    continue
                total += memory.rss - memory.shared
                pss += memory.pss
                peaks["largest"] = max(peaks["largest"], memory.rss / 2**20)
            peaks["anonymous"], peaks["pss"] = max(peaks["anonymous"], total / 2**20), max(peaks["pss"], pss / 2**20)

    thread = threading.Thread(target=sample)
    start = time.monotonic()
    thread.start()
    code = process.wait()
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    done.set()
    thread.join()
    if code:
        sys.exit(code)
    return {
        "seconds": round(seconds, 1),
        "processor seconds": round(processor, 1),
        **{name: round(peak) for name, peak in peaks.items()},
    }


def main() -> None:
    """Writes the text where it is not there yet, prepares it twice, prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5_000_000)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--overrides", nargs="*", default=[])
    args = parser.parse_args()
    text = args.directory / f"text{args.pairs}"
    if not (text / "done").exists():
        text.mkdir(parents=True, exist_ok=True)
        for pair, share in SHARES.items():
            write(text, pair, int(args.pairs * share))
        (text / "done").touch()
    files = {"format": "moses", "path": f"{text}/{{pair}}.{{source}}", "target_path": f"{text}/{{pair}}.{{target}}"}
    recipe = args.directory / "scale.yaml"
    data = {"directory": str(args.directory / "prepared"), "pairs": list(SHARES), "corpora": {"*": {"train": [files]}}}
    recipe.write_text(json.dumps({"data": data}))
    command = [sys.executable, "-m", "mnmt_ds.cli.main", "prepare", str(recipe), *args.overrides]
    for run in ("fresh", "second"):
        print(run, measure([*command, "--fresh"] if run == "fresh" else command), flush=True)


if __name__ == "__main__":
    main()
