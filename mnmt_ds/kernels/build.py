"""Compiles the native code on first use: one shared library a (source, compiler, machine, environment), kept for later.

Safe where several processes start at once and where a build is killed: the lock is the kernel's (flock), so it dies
with its holder; a library appears under its name only when whole.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

SOURCES = Path(__file__).parent / "csrc"
TARGET = "0x020b000000000000"
"""Oldest torch whose stable ABI the libraries use: 2.11."""
LOG = logging.getLogger("mnmt_ds")


class LibraryRecipe(NamedTuple):
    """How to make one library."""

    name: str
    compile: tuple[tuple[str, ...], ...]
    """Commands; ``{out}`` stands for a directory of the build's own."""
    link: tuple[str, ...]
    """The last command; ``{library}`` stands for the file to write."""


class BuildError(Exception):
    """The library cannot be made here; the message says why in one line."""


def cpu_recipe() -> LibraryRecipe:
    """The C++ library, for exactly this machine's instruction set; BuildError without a compiler."""
    compiler = _tool("CXX", ("g++", "clang++", "c++"))
    native = ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64") else ("-march=native",)
    common = ("-std=c++20", "-fPIC", "-Wno-psabi")
    # no -ffast-math: NaN must stay NaN, and linking it would flush denormals in the whole process
    speed = ("-O3", *native, "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
    return LibraryRecipe(
        "cpu",
        (
            (compiler, *common, *speed, "-c", str(SOURCES / "cpu.cpp"), "-o", "{out}/cpu.o"),
            (compiler, *common, "-O2", *stable_abi(), "-c", str(SOURCES / "cpu_ops.cpp"), "-o", "{out}/ops.o"),
        ),
        (compiler, "-shared", "-fopenmp", "{out}/cpu.o", "{out}/ops.o", *torch_libraries(), "-o", "{library}"),
    )


def cuda_recipe(targets: Sequence[str] = ()) -> LibraryRecipe:
    """The CUDA library for some GPU targets (default: this machine's); BuildError without nvcc or a C++ compiler."""
    nvcc, compiler = _tool("NVCC", ("nvcc", *_nvcc_places())), _tool("CXX", ("g++", "clang++", "c++"))
    home = Path(nvcc).resolve().parent.parent
    if not targets:
        found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        targets = [f"{major}{minor}" for major, minor in sorted(found)]
    codes = [x for t in targets for x in ("-gencode", f"arch=compute_{t},code=sm_{t}")]
    flags = ("-std=c++20", "-O3", "--threads", "0", "-Xcompiler", "-fPIC", "-Xptxas", "-v", *codes)
    return LibraryRecipe(
        "cuda",
        (
            (nvcc, *flags, "-c", str(SOURCES / "cuda.cu"), "-o", "{out}/cuda.o"),
            (compiler, "-std=c++20", "-fPIC", "-O2", "-DUSE_CUDA", *stable_abi(), f"-I{home / 'include'}",
             "-c", str(SOURCES / "cuda_ops.cpp"), "-o", "{out}/ops.o"),
        ),
        (nvcc, "-shared", "-cudart", "static", "{out}/cuda.o", "{out}/ops.o", *_for_nvcc(torch_libraries()), "-o",
         "{library}"),
    )  # fmt: skip


def _nvcc_places() -> list[str]:
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    return [str(Path(home) / "bin" / "nvcc") for home in homes if home]


def _for_nvcc(flags: Sequence[str]) -> list[str]:
    """Flags for g++ as nvcc takes them."""
    return [f"-Xlinker={flag.removeprefix('-Wl,').replace(',', '=')}" if "-Wl," in flag else flag for flag in flags]


def stable_abi() -> tuple[str, ...]:
    """Compiler flags for torch's stable headers."""
    return (f"-DTORCH_TARGET_VERSION={TARGET}", f"-I{Path(torch.__file__).parent / 'include'}")


def torch_libraries() -> tuple[str, ...]:
    """Linker flags for torch's own libraries (its OpenMP runtime is then ours too: one pool of threads)."""
    place = Path(torch.__file__).parent / "lib"
    return (f"-L{place}", f"-Wl,-rpath,{place}", "-ltorch_cpu", "-ltorch", "-lc10")


@functools.cache
def load(make_recipe: object) -> None:
    """Builds if need be and loads a library into torch.ops; BuildError where that is impossible."""
    assert callable(make_recipe)
    torch.ops.load_library(str(build(make_recipe())))  # type: ignore[no-untyped-call]


def build(recipe: LibraryRecipe, directory: Path | None = None) -> Path:
    """The finished library's path; compiles it first where it is not there."""
    directory = private(directory or extensions_directory())
    library = directory / f"{recipe.name}-{_key(recipe)}.so"
    if library.exists():
        return library
    with locked(directory / f"{recipe.name}.lock"):
        if library.exists():
            return library
        for leftover in directory.glob(f"{recipe.name}-building-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a killed build: we hold the lock, so nobody uses it
        LOG.info("compiling the %s kernels into %s (once; under a minute)", recipe.name, directory)
        with tempfile.TemporaryDirectory(prefix=f"{recipe.name}-building-", dir=directory) as out:
            report = _run([[word.format(out=out) for word in command] for command in recipe.compile])
            half = str(Path(out) / "library.so")
            _run([[word.format(out=out, library=half) for word in recipe.link]])
            library.with_suffix(".txt").write_text(report)  # what the compilers said; nvcc: registers and spills
            os.replace(half, library)
    return library


def extensions_directory() -> Path:
    """MNMT_DS_EXTENSIONS, or a directory of this user and this Python environment."""
    given = os.environ.get("MNMT_DS_EXTENSIONS")
    if given:
        return Path(given)
    environment = hashlib.sha256(f"{sys.prefix} {sys.version}".encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        cache = Path(tempfile.gettempdir()) / f"mnmt_ds-{os.getuid()}"
    return cache / "mnmt_ds" / "extensions" / environment


def private(directory: Path) -> Path:
    """The directory, made with mode 0700; refused where others could plant a library in it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise BuildError(f"{directory} cannot be made ({error.strerror}); set MNMT_DS_EXTENSIONS") from None
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise BuildError(f"{directory} is open to other users; make it your own with mode 0700")
    return directory


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that dies with its holder; waits for whoever has it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file, by us or by our death, frees the lock


def _key(recipe: LibraryRecipe) -> str:
    """Changes with everything that the library depends on."""
    digest = hashlib.sha256(repr(recipe).encode())
    digest.update(f"{sys.prefix} {torch.__version__}".encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    digest.update(_compiler_version(recipe.link[0]).encode())
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        digest.update(
            "\n".join(sorted({x for x in lines if x.startswith(("flags", "Features", "model name"))})).encode()
        )
    return digest.hexdigest()[:16]


@functools.cache
def _compiler_version(compiler: str) -> str:
    result = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return result.stdout


def _tool(variable: str, names: Sequence[str]) -> str:
    given = os.environ.get(variable)
    for name in (given,) if given else names:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(f"no C++ compiler ({given or ', '.join(names)}); install one or name it in {variable}")


def _run(commands: list[list[str]]) -> str:
    """What the commands print, run side by side; BuildError with the first complaint."""
    running = [
        subprocess.Popen(c, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    texts = [process.communicate()[0] for process in running]
    for process, text in zip(running, texts, strict=True):
        if process.returncode:
            lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["no message"]
            raise BuildError(f"compiling failed: {lines[0].strip()}")
    return "".join(texts)


if __name__ == "__main__":  # builds ahead of the first use: python -m mnmt_ds.kernels.build [GPU targets, as 90]
    print(build(cpu_recipe()))
    if sys.argv[1:]:
        print(build(cuda_recipe(sys.argv[1:])))
