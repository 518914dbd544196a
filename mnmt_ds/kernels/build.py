"""Compiles the native code on first use: one shared library a (source, compiler, machine, environment), kept for later.

Safe where several processes start at once and where a build is killed: the lock is the kernel's (flock), so it dies
with its holder; a library appears under its name only when whole.
"""

import contextlib
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mnmt_ds.files import lock, sync, write_text

SOURCES = Path(__file__).parent / "csrc"
TARGET = "0x020b000000000000"
"""Oldest torch whose stable ABI the libraries use: 2.11."""
LOG = logging.getLogger(__name__)


class LibraryRecipe(NamedTuple):
    """Sources and compiler command of one native library."""

    name: str
    compile: tuple[tuple[str, ...], ...]
    """Commands, run side by side; ``{out}`` stands for a directory of the build's own."""
    link: tuple[str, ...]
    """The last command; ``{library}`` stands for the file to write."""


class BuildError(Exception):
    """Raised where a library cannot be built here; the message says why in one line."""


def cpu_recipe() -> LibraryRecipe:
    """Determines how to build the C++ library for exactly this machine's instruction set.

    Returns:
        The commands.

    Raises:
        BuildError: when there is no compiler.
    """
    compiler = _find_tool("CXX", ("g++", "clang++", "c++"))
    native = ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64") else ("-march=native",)
    common = ("-std=c++20", "-fPIC", "-Wno-psabi")
    # no -ffast-math: NaN must stay NaN, and linking it would flush denormals in the whole process
    speed = ("-O3", *native, "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
    return LibraryRecipe(
        "cpu",
        (
            (compiler, *common, *speed, "-c", str(SOURCES / "cpu.cpp"), "-o", "{out}/cpu.o"),
            (compiler, *common, *speed, "-c", str(SOURCES / "amx.cpp"), "-o", "{out}/amx.o"),
            (compiler, *common, *speed, "-c", str(SOURCES / "products.cpp"), "-o", "{out}/products.o"),
            (compiler, *common, *speed, "-c", str(SOURCES / "dropout.cpp"), "-o", "{out}/dropout.o"),
            (compiler, *common, "-O2", *stable_abi(), "-c", str(SOURCES / "cpu_ops.cpp"), "-o", "{out}/ops.o"),
        ),
        (
            compiler,
            "-shared",
            "-fopenmp",
            "{out}/cpu.o",
            "{out}/amx.o",
            "{out}/products.o",
            "{out}/dropout.o",
            "{out}/ops.o",
            *torch_libraries(),
            "-o",
            "{library}",
        ),
    )


def cuda_recipe(targets: Sequence[str] = ()) -> LibraryRecipe:
    """Determines how to build the CUDA library.

    Args:
        targets: compute capabilities without a dot, such as 90; none: this machine's GPUs.

    Returns:
        The commands.

    Raises:
        BuildError: when there is no nvcc or no C++ compiler.
    """
    nvcc, compiler = _find_tool("NVCC", ("nvcc", *_nvcc_paths())), _find_tool("CXX", ("g++", "clang++", "c++"))
    home = Path(nvcc).resolve().parent.parent
    if not targets:
        capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        targets = [f"{major}{minor}" for major, minor in sorted(capabilities)]
    codes = [word for t in targets for word in ("-gencode", f"arch=compute_{t},code=sm_{t}")]
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


def _nvcc_paths() -> list[str]:
    """Where nvcc may be beside PATH."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    return [str(Path(home) / "bin" / "nvcc") for home in homes if home]


def _for_nvcc(flags: Sequence[str]) -> list[str]:
    """Flags for g++ as nvcc takes them."""
    return [f"-Xlinker={flag.removeprefix('-Wl,').replace(',', '=')}" if "-Wl," in flag else flag for flag in flags]


def stable_abi() -> tuple[str, ...]:
    """Lists compiler flags for torch's stable headers.

    Returns:
        The flags.
    """
    return (f"-DTORCH_TARGET_VERSION={TARGET}", f"-I{Path(torch.__file__).parent / 'include'}")


def torch_libraries() -> tuple[str, ...]:
    """Lists linker flags for torch's own libraries (its OpenMP runtime is then ours too: one pool of threads).

    libtorch_cuda is named where it is, and kept though no symbol of it is a strong one, as linkers by default do not:
    the CUDA stream's function is found there alone.

    Returns:
        The flags.
    """
    directory = Path(torch.__file__).parent / "lib"
    cuda = ("-ltorch_cuda",) if (directory / "libtorch_cuda.so").exists() else ()
    libraries = ("-ltorch_cpu", "-ltorch", "-lc10", *cuda)
    return (f"-L{directory}", f"-Wl,-rpath,{directory}", "-Wl,--no-as-needed", *libraries)


@functools.cache
def load(make_recipe: Callable[[], LibraryRecipe]) -> None:
    """Loads a library into torch.ops, once a process; builds it if need be.

    Args:
        make_recipe: ``cpu_recipe`` or ``cuda_recipe``.

    Raises:
        BuildError: when it cannot be built.
        OSError: when it cannot be loaded.
    """
    torch.ops.load_library(str(build(make_recipe())))  # type: ignore[no-untyped-call]


def build(recipe: LibraryRecipe, directory: Path | None = None) -> Path:
    """Returns a library's path, after compiling it where it is not there.

    Args:
        recipe: how to make it.
        directory: where libraries are kept; None: ``extensions_directory()``.

    Returns:
        The finished library.

    Raises:
        BuildError: when compiling fails, or the directory is not safe.
    """
    directory = private_directory(directory or extensions_directory())
    library = directory / f"{recipe.name}-{_key(recipe)}.so"
    if library.exists():
        return library
    with lock(directory / f"{recipe.name}.lock", wait=True):
        if library.exists():
            return library
        for leftover in directory.glob(f"{recipe.name}-building-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a killed build: we hold the lock, so nobody uses it
        LOG.info("compiling the %s kernels into %s (once; under a minute)", recipe.name, directory)
        with tempfile.TemporaryDirectory(prefix=f"{recipe.name}-building-", dir=directory) as out:
            report = _run([[word.format(out=out) for word in command] for command in recipe.compile])
            temporary = Path(out) / "library.so"
            _run([[word.format(out=out, library=temporary) for word in recipe.link]])
            write_text(library.with_suffix(".txt"), report)  # what the compilers said; nvcc: registers and spills
            sync(temporary)
            os.replace(temporary, library)
    return library


def extensions_directory() -> Path:
    """Returns the directory where built libraries are kept.

    Returns:
        MNMT_DS_EXTENSIONS, or a directory of this user and this Python environment; it may be missing.
    """
    chosen = os.environ.get("MNMT_DS_EXTENSIONS")
    if chosen:
        return Path(chosen)
    environment = hashlib.sha256(f"{sys.prefix} {sys.version}".encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        cache = Path(tempfile.gettempdir()) / f"mnmt_ds-{os.getuid()}"
    return cache / "mnmt_ds" / "extensions" / environment


def private_directory(directory: Path) -> Path:
    """Makes a directory with mode 0700; refuses one where others could plant a library.

    Args:
        directory: the directory; it may be there already.

    Returns:
        The same path.

    Raises:
        BuildError: when it cannot be made, or is open to other users.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise BuildError(f"{directory} cannot be made ({error.strerror}); set MNMT_DS_EXTENSIONS") from None
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise BuildError(f"{directory} is open to other users; make it your own with mode 0700")
    return directory


def _key(recipe: LibraryRecipe) -> str:
    """Changes with everything that the library depends on."""
    digest = hashlib.sha256(repr(recipe).encode())
    digest.update(f"{sys.prefix} {torch.__version__}".encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    digest.update(_compiler_version(recipe.link[0]).encode())
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        processors = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
        digest.update("\n".join(sorted(processors)).encode())
    return digest.hexdigest()[:16]


@functools.cache
def _compiler_version(compiler: str) -> str:
    """What the compiler says of itself."""
    result = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return result.stdout


def _find_tool(variable: str, names: Sequence[str]) -> str:
    """The path of a compiler: what an environment variable names, else the first of some names."""
    chosen = os.environ.get(variable)
    for name in (chosen,) if chosen else names:
        path = shutil.which(name)
        if path:
            return path
    raise BuildError(f"no C++ compiler ({chosen or ', '.join(names)}); install one or name it in {variable}")


def _run(commands: list[list[str]]) -> str:
    """What the commands print, run side by side; BuildError with the first complaint."""
    processes = [
        subprocess.Popen(c, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    texts = [process.communicate()[0] for process in processes]
    for process, text in zip(processes, texts, strict=True):
        if process.returncode:
            lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["no message"]
            raise BuildError(f"compiling failed: {lines[0].strip()}")
    return "".join(texts)


if __name__ == "__main__":  # builds ahead of the first use: python -m mnmt_ds.kernels.build [GPU targets, as 90]
    print(build(cpu_recipe()))
    if sys.argv[1:]:
        print(build(cuda_recipe(sys.argv[1:])))
