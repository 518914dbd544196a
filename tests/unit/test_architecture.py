"""The layout that the house rests on: imports go down the layers, files stay small, packages do not know each other."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = (
    ("training_position", "terminal"),
    (
        "best_values",
        "metric_keys",
        "errors",
        "files",
        "json_files",
        "log",
        "shipped_files",
        "private_api_list",
        "host_copy",
    ),
    ("checkpoint_writer", "version_limit"),
    ("private_apis", "private_block_step", "private_late_checks"),
    ("private_masters",),
    ("config", "kernels", "requirements", "private_apis_page", "file_integrity", "packed_records"),
    ("record_lines",),
    ("run_files", "dashboards"),
    ("batch", "distributed", "tracking", "package_versions"),
    ("parallel_layout", "hung_ranks"),
    ("data", "models", "samplers"),
    ("decoding", "teachers"),
    ("evaluation", "methods"),
    ("reporting",),
    ("engine", "analysis"),
    ("launching", "planning", "study"),
    ("cli", "bench"),
    ("__main__",),
)
ENGINE_LAYERS = (
    ("settings",),
    ("recipe",),
    ("unused_settings",),
    ("parallel",),
    ("dataloading",),
    ("checkpointing",),
    ("monitoring",),
    ("students",),
    ("teacher_setup", "run_log"),
    ("build",),
    ("start_faults",),
    ("training", "dry_run"),
    ("validation_round",),
    ("loop",),
)
"""Packages and files of ``engine``, from the lowest: arrows between them go down, too."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
LONGEST = 500


def sources() -> list[Path]:
    return sorted((ROOT / "mnmt_ds").rglob("*.py"))


def imported(path: Path, package: str = "mnmt_ds") -> set[str]:
    """First part below a package of everything that a file imports from it, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == package else node.module for alias in node.names]
        found |= {name.removeprefix(f"{package}.").split(".")[0] for name in names if name.startswith(f"{package}.")}
    return found


def place(path: Path) -> str:
    return path.relative_to(ROOT / "mnmt_ds").parts[0].removesuffix(".py")


def test_every_part_has_a_layer() -> None:
    assert {place(path) for path in sources()} - {"__init__"} == set(LEVEL)


def test_imports_go_down_only() -> None:
    """A package imports itself and lower layers; ``errors`` is open to all, and ``bench`` may be called by ``cli``."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {target}"
        for path in sources()
        for target in imported(path) - {"errors", "__version__"}
        if (source := place(path)) != target
        and source != "__init__"
        and LEVEL[target] >= LEVEL[source]
        and (source, target) != ("cli", "bench")
    ]
    assert not wrong


def test_imports_within_the_engine_go_down_only() -> None:
    """Between its packages and files; every one of them has a layer."""
    engine = ROOT / "mnmt_ds" / "engine"
    level = {name: number for number, names in enumerate(ENGINE_LAYERS) for name in names}
    wrong, found = [], set()
    for path in sorted(engine.rglob("*.py")):
        source = path.relative_to(engine).parts[0].removesuffix(".py")
        found.add(source)
        for target in imported(path, "mnmt_ds.engine"):
            if source not in (target, "__init__") and level[target] >= level[source]:
                wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert found - {"__init__"} == set(level)
    assert not wrong


def test_files_stay_small() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in sources())
    assert lengths[-1] <= LONGEST
    assert lengths[len(lengths) // 2] <= 150


def test_nothing_is_unpickled_but_deepspeeds_own_files() -> None:
    """Our weights are safetensors, our scalars JSON: no torch.load, pickle or eval in the package."""
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"torch.load", "pickle.load", "pickle.loads", "eval", "exec", "yaml.load"}, (
                    f"{path}: {name}"
                )
