"""``train.torch_compile``: compiled layers give what layers give, on real engines, by fewer calls."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from mnmt_ds.kernels import linear
from mnmt_ds.models import compiled
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from tests.spawn import on_ranks
from tests.tiny import recipe, zero

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("PRETEND_GPU")), reason="torch's compiler asks the GPU that it is told of"
)
LSSD = {"name": "lssd", "variant": "adaptive", "teachers": {"cache": "off"}}
NONE = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
LORA = {"rank": 2, "targets": ["q_proj", "v_proj"]}


def _run(corpus: str, run: str, stage: int, backend: str, is_compiled: bool, sections: dict[str, Any]) -> Any:
    """Losses and norms of updates, all pairs taught, then dev losses; graphs and breaks of the compiler."""
    from mnmt_ds.engine.loop import student_loops, train_update
    from mnmt_ds.engine.monitoring.validation import validate
    from mnmt_ds.engine.training import Training
    from mnmt_ds.methods.method import ValidationReport

    compiled.BACKEND = backend
    train = {"clip_norm": 0.3, "torch_compile": is_compiled, **sections.pop("train", {})}
    model = {"encoder_layers": 2, "decoder_layers": 2, **sections.pop("model", NONE)}
    made = {"train": train, "model": model, "deepspeed": zero(stage, run), "method": LSSD, **sections}
    training = Training(recipe(Path(corpus), Path(run), **made), resume=False)
    linear.use("cpu" if is_compiled else "torch")  # which compiled layers leave alone
    student, (loop,) = training.first, student_loops(training, next_evaluation=lambda student: 1 << 60).values()
    for number, value in enumerate((1.0, 2.0), start=1):  # a teacher each, then all are taught
        student.method.on_validation(ValidationReport(number, 0.0, dict.fromkeys(training.pairs, value)))
    figures = []
    for _ in range(4):
        result = train_update(loop, student.data_iterator.next_update())
        student.data_iterator.update_done(result.losses)
        figures += [sum(loss for loss, _ in result.losses), result.norm]
    dev = validate(student.engine, training.dev, training.pairs, training.plain_loss_function)
    figures += [dev[pair]["loss"] for pair in training.pairs]
    training.close()
    counters = torch._dynamo.utils.counters
    return figures, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def _both(ranks: int, corpus: Path, folder: Path, stage: int, backend: str, sections: dict[str, Any]) -> Any:
    runs = []
    for is_compiled in (False, True):
        run = str(folder / f"{stage}{is_compiled}")
        runs.append(on_ranks(ranks, _run, str(corpus), run, stage, backend, is_compiled, dict(sections))[0])
    return runs


def test_a_run_of_compiled_layers(tiny_corpus: Path, tmp_path: Path) -> None:
    """Traced as for any backend, and run by the same operators: to the last bits."""
    plain, made = _both(1, tiny_corpus, tmp_path, 1, "aot_eager", {})
    assert plain[1] == 0
    assert made[1] == 4, "an encoder's and a decoder's layer, each with and without gradient"
    assert made[2] == 0
    assert made[0] == pytest.approx(plain[0], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "sections"),
    [
        (0, {}),
        (1, {"train": {"precision": "bf16"}}),
        (2, {"model": {**NONE, "activation_checkpointing": True}}),
        (3, {}),
        (3, {"train": {"precision": "bf16"}}),
        (2, {"train": {"precision": "bf16"}, "model": {**NONE, "lora": LORA}}),
        (3, {"model": {**NONE, "lora": LORA}}),
        (3, {"model": {**NONE, "freeze": {"embeddings": True, "encoder_layers": 1}}}),
        (1, {"pipeline": {"stages": 2}, "method": {"name": "translation"}}),
        (1, {"tensor": {"vocabulary": 2}}),
    ],
    ids=str,
)
def test_every_layout_with_the_compilers_own_code(
    stage: int, sections: dict[str, Any], tiny_corpus: Path, tmp_path: Path
) -> None:
    plain, made = _both(2, tiny_corpus, tmp_path, stage, "inductor", sections)
    assert made[1] >= 4 - 2 * ("pipeline" in sections) and made[2] == 0
    is_bf16 = sections.get("train", {}).get("precision") == "bf16"
    assert made[0] == pytest.approx(plain[0], rel=2e-2 if is_bf16 else 1e-4)


@pytest.mark.slow
def test_dropout_is_drawn_from_the_seed(tiny_corpus: Path, tmp_path: Path) -> None:
    """Other numbers than without, but the same in a second run."""
    dropped = {"model": {"dropout": 0.3, "attention_dropout": 0.1, "activation_dropout": 0.1}}
    (plain, *_), (first, *_) = _both(2, tiny_corpus, tmp_path / "a", 1, "inductor", dropped)
    again, *_ = on_ranks(2, _run, str(tiny_corpus), str(tmp_path / "b"), 1, "inductor", True, dict(dropped))[0]
    assert first == again
    assert first[0] != plain[0] and first == pytest.approx(plain, rel=0.1)


VIEWS = {"view", "t", "transpose", "expand", "unsqueeze", "squeeze", "slice", "select", "split", "unbind", "detach",
         "as_strided", "alias", "permute", "split_with_sizes", "_unsafe_view"}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts the operators that are dispatched, but for views."""

    count = 0

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True  # compiled code runs under such a one

    ignore_compile_internals = is_infra_mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func.overloadpacket).split(".")[-1] not in VIEWS
        return func(*args, **(kwargs or {}))


def _step(model: Transformer, sentences: int = 6, source: int = 9, target: int = 8) -> list[Tensor]:
    """States and gradients of a pass in which a source is padded."""
    torch.manual_seed(sentences)
    source_BS, decoder_BT = (torch.randint(5, 100, (sentences, length)) for length in (source, target))
    source_BS[0, source // 2 :] = 1
    model.zero_grad()
    states = model(source_BS, decoder_BT).decoder_BTD
    states.float().square().sum().backward()
    return [states.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def _launches(step: Callable[[], Any]) -> int:
    """Operators and generated kernels of a pass."""
    with Operations() as operations:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    return operations.count + sum(event.count for event in profiled.key_averages() if "cpp_fused" in event.key)


@pytest.mark.slow
def test_a_pass_launches_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the base preset's layers; lengths and numbers of sentences compile nothing anew, one sentence does once."""
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "enable_kernel_profile", True)
    torch._dynamo.reset()
    compiled._compiled_forward.cache_clear()
    for kind, dropout in ((torch.float32, 0.0), (torch.bfloat16, 0.1)):
        settings = ModelSettings(preset="base", d_model=64, ffn=128, heads=4, dropout=dropout, attention_dropout=0.0)
        plain, made = (initialise(Transformer(settings, 100)).to(kind) for _ in range(2))
        made.load_state_dict(plain.state_dict())
        compiled.compile_layers(made)
        for shape in ((4, 9, 7), (6, 5, 8), (3, 20, 13), (7, 11, 3)):
            before, after = _step(plain, *shape), _step(made, *shape)
            if not dropout:
                scale = max(float(value.norm()) for value in before)
                for a, b in zip(before, after, strict=True):
                    assert float((a - b).norm()) < 1e-5 * float(a.norm()) + 1e-6 * scale
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        _step(made, 9, 17, 6)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
        counts = [_launches(lambda model=model: _step(model)) for model in (plain, made)]  # type: ignore[misc]
        print(kind, "operators", counts[0], "with compiled layers", counts[1])
        assert counts[1] <= (0.75 if kind == torch.float32 else 0.55) * counts[0], counts
