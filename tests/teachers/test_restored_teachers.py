"""Teachers of a resumed run: a rank reads its own share of a file, and all ranks hear of a fault that one found."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mnmt_ds.distributed import RankGroup
from mnmt_ds.errors import UserError
from mnmt_ds.models import weights as weight_files
from mnmt_ds.models.weights import read_elements, read_weights, save_model
from mnmt_ds.teachers.shard_layout import assemble_shard, extract_shard, own_ranges, shard_layout
from tests.spawn import on_ranks

DESCRIPTION = {"model": {}, "vocabulary_size": 11, "framing": {}, "pairs": ["bs-en"], "tokenizer_hash": ""}


def saved(directory: Path, **values: torch.Tensor) -> nn.Module:
    """A model of some odd shapes, saved."""
    torch.manual_seed(1)
    model = nn.Module()
    for name, shape in {"embedding": (11, 4), "norm": (7,), "cube": (3, 2, 5), "one": (1,)}.items():
        model.register_parameter(name, nn.Parameter(values.get(name, torch.randn(shape))))
    save_model(directory, {name: p.detach() for name, p in model.named_parameters()}, DESCRIPTION)
    return model


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_share_read_alone_is_that_of_the_whole(ranks: int, dtype: torch.dtype, tmp_path: Path) -> None:
    model = saved(tmp_path / "7")
    shards = shard_layout(model, model.embedding, ranks)  # type: ignore[arg-type]
    whole = read_weights(tmp_path / "7")
    for group in (RankGroup(rank, ranks) for rank in range(ranks)):
        elements = read_elements(tmp_path / "7", own_ranges(shards, group))
        alone = assemble_shard(shards, elements, dtype)
        assert torch.equal(alone, extract_shard(shards, whole, group, dtype))
        assert torch.equal(alone, extract_shard(shards, dict(model.named_parameters()), group, dtype))


def test_no_more_is_read_than_the_rows_of_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "7")
    shards = shard_layout(model, model.embedding, 4)  # type: ignore[arg-type]
    read: dict[str, int] = {}
    original = weight_files._elements  # counts what leaves the file

    def counted(file: object, name: str, start: int, stop: int) -> torch.Tensor:
        class Counting:
            def get_slice(self, name: str) -> object:
                whole = file.get_slice(name)  # type: ignore[attr-defined]

                class Rows:
                    get_shape = staticmethod(whole.get_shape)

                    def __getitem__(self, rows: slice) -> torch.Tensor:
                        values = whole[rows]
                        read[name] = values.numel()
                        return values

                return Rows()

        return original(Counting(), name, start, stop)

    monkeypatch.setattr(weight_files, "_elements", counted)
    read_elements(tmp_path / "7", own_ranges(shards, RankGroup(1, 4)))
    assert read == {"embedding": 16, "norm": 2, "cube": 20, "one": 0}  # rows of 4, 1, 10 and 1 that hold a quarter


def restored(directory: str) -> str:
    """What a rank of two hears; the NaN is in the second one's half."""
    from types import SimpleNamespace

    from mnmt_ds.distributed import job_ranks
    from mnmt_ds.teachers.shard_storage import ShardStorage
    from mnmt_ds.teachers.teacher_pool import TeacherPool

    ranks = job_ranks()
    model = nn.Linear(2, 8, bias=False)
    shards = shard_layout(model, model.weight, ranks.size)

    def load(version: object) -> torch.Tensor:
        return assemble_shard(
            shards, read_elements(Path(directory) / str(version), own_ranges(shards, ranks)), torch.float32
        )

    storage = ShardStorage(torch.float32, 1 << 20, Path(directory) / "files", load)
    teachers = SimpleNamespace(ranks=ranks, shard_storage=storage)
    server = SimpleNamespace(keep_only=storage.keep_only)
    pool = TeacherPool(["bs-en"], teachers, server, lambda: torch.zeros(1), load)  # type: ignore[arg-type]
    pool.restore([3])
    good = storage.get(3).tolist() == model_half(ranks.rank)
    try:
        pool.restore([3, 4])
    except UserError as error:
        return str(error) if good else "another half"
    return "nothing"


def model_half(rank: int) -> list[float]:
    return [float(8 * rank + i) for i in range(8)]


def test_all_ranks_hear_of_what_one_found(tmp_path: Path) -> None:
    values = torch.arange(16.0).view(8, 2)
    for version, table in {3: values, 4: torch.where(values == 13.0, torch.nan, values)}.items():
        save_model(tmp_path / str(version), {"weight": table}, DESCRIPTION)
    lines = on_ranks(2, restored, str(tmp_path))
    assert lines[0] == lines[1] and "4/model.safetensors: NaN or Inf in weight" in lines[0]
