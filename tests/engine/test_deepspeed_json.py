"""Every key of a user's own DeepSpeed JSON is honoured, the recipe's, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.parallel.ds_config_keys import KEYS, lookup
from mnmt_ds.engine.settings import TrainSettings
from mnmt_ds.errors import UserError
from tests.spawn import on_ranks
from tests.tiny import ROOT


def _used(tmp_path: Path, text: str | dict[str, Any]) -> ds_config.Json:
    """A file as a run uses it."""
    path = tmp_path / "own.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    config = ds_config.resolve(ds_config.read(path), TrainSettings(), 1, str(path))
    ds_config.check_by_deepspeed(config, str(path))
    return config


def test_shipped_files_are_taken() -> None:
    for path in (ROOT / "ds_configs").glob("*.json"):
        assert ds_config.read(path)


REFUSED: dict[str, Any] = {
    "scheduler.type is not taken: the rate is the recipe's": {"scheduler": {"type": "WarmupLR", "params": {}}},
    "scheduler.params.cycle_min_lr is not taken": {"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1e-4}}},
    "gradient_clipping is 5.0 there and 1.0 by the recipe": {"gradient_clipping": 5.0},
    "optimizer.params.betas is [0.9, 0.999] there": {"optimizer": {"type": "AdamW", "params": {"betas": [0.9, 0.999]}}},
    "optimizer.type is 'OneBitAdam'": {"optimizer": {"type": "OneBitAdam"}},
    "optimizer.params.momentum is not taken": {"optimizer": {"type": "Adam", "params": {"momentum": 0.9}}},
    "optimizer.params.adam_w_mode is False": {"optimizer": {"params": {"adam_w_mode": False}}},
    "train_batch_size is 64 there": {"train_batch_size": 64},
    "train_micro_batch_size_per_gpu is 8 there": {"train_micro_batch_size_per_gpu": 8},
    "tensorboard.output_path is not taken": {"tensorboard": {"enabled": True, "output_path": "logs"}},
    "wandb.enabled is not taken": {"wandb": {"enabled": True}},
    "bf16.bf16_master_weights_and_grads is not": {"bf16": {"enabled": "auto", "bf16_master_weights_and_grads": True}},
    "bf16.check_grad_overflow is False": {"bf16": {"check_grad_overflow": False}},
    "zero_optimization.compute_grad_norm is False": {"zero_optimization": {"stage": 1, "compute_grad_norm": False}},
    "zero_optimization.stage: Input should be less than or equal to 3": {"zero_optimization": {"stage": 4}},
    "zero_optimization.stage: Input should be a valid integer": {"zero_optimization": {"stage": True}},
    "zero_optimization: Input should be a valid dictionary": {"zero_optimization": 3},
    "optimizer.params: Input should be a valid dictionary": {"optimizer": {"params": []}},
    "no such key (did you mean 'gradient_clipping'?)": {"gradient_cliping": 1.0},
    "managed_gradient_accumulation is False": {"managed_gradient_accumulation": False},
    "checkpoint.load_universal is not taken": {"checkpoint": {"load_universal": True}},
    "activation_checkpointing.partition_activations": {"activation_checkpointing": {"partition_activations": True}},
    "key 'fp16' stands twice": '{"fp16": {"enabled": false}, "fp16": {"enabled": true}}',
    "nests too deeply": "[" * 100_000,
    "Input should be a valid dictionary; mend it": "[]",
    "reduce_bucket_size": {"zero_optimization": {"stage": 1, "reduce_bucket_size": "many"}},
    "zero_optimization.reduce_buckt_size: DeepSpeed has no such key; did you mean 'reduce_bucket_size'?": {
        "zero_optimization": {"stage": 1, "reduce_buckt_size": 1}
    },
    "zero_optimization.offload_param.devise: DeepSpeed has no such key": {
        "zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}
    },
    "bfloat16.enabled is not taken: that is the old name of bf16": {"bfloat16": {"enabled": True}},
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_in_one_line_that_names_the_file(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _used(tmp_path, REFUSED[text])
    assert all(fault.startswith(str(tmp_path / "own.json")) for fault in caught.value.faults)
    assert any(text in fault for fault in caught.value.faults)


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _used(
            tmp_path, {"scheduler": {"type": "WarmupLR"}, "wandb": {"enabled": True}, "zero_optimisation": {}, "x": 1}
        )
    assert all(
        name in str(caught.value) for name in ("scheduler.type", "wandb.enabled", "x: DeepSpeed has no such key")
    )


def test_what_is_left_out_is_filled(tmp_path: Path) -> None:
    """No optimizer, no clipping (which DeepSpeed would take for 1.0), no batch sizes."""
    config = _used(tmp_path, {"zero_optimization": {"stage": 1}})
    assert config["optimizer"]["type"] == "AdamW" and config["optimizer"]["params"]["torch_adam"] is True
    assert config["optimizer"]["params"]["betas"] == [0.9, 0.98] and config["gradient_clipping"] == 1.0
    assert config["zero_allow_untested_optimizer"] is True and config["train_batch_size"] == 1


def test_what_is_off_or_the_same_is_let_through(tmp_path: Path) -> None:
    off = {
        "scheduler": {"enabled": False, "type": "WarmupLR"},
        "prescale_gradients": False,
        "wandb": {"enabled": False},
    }
    same = {"gradient_clipping": 1, "optimizer": {"type": "Adam", "params": {"lr": 2e-3, "torch_adam": True}}}
    passed = {"wall_clock_breakdown": False, "communication_data_type": "fp32", "flops_profiler": {"enabled": False}}
    config = _used(tmp_path, {**off, **same, **passed, "data_types": {"grad_accum_dtype": "fp32"}})
    assert config["communication_data_type"] == "fp32" and config["optimizer"]["type"] == "Adam"
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}


def test_the_table_has_every_key_that_deepspeed_reads() -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    read: set[str] = set()

    class Watched(dict[str, Any]):
        """Notes what is asked of it."""

        def __contains__(self, key: object) -> bool:
            """Whether it has a key."""
            read.add(str(key))
            return super().__contains__(key)

        def get(self, key: str, default: Any = None) -> Any:
            """The value of a key."""
            read.add(key)
            return super().get(key, default)

        def __getitem__(self, key: str) -> Any:
            """The value of a key."""
            read.add(key)
            return super().__getitem__(key)

    DeepSpeedConfig(Watched(train_micro_batch_size_per_gpu=1))
    assert len(read) > 40
    assert not {name for name in read if lookup(name) is None and not any(key.startswith(f"{name}.") for key in KEYS)}


def test_a_rank_alone_gathers_gradients_in_a_small_buffer() -> None:
    def bucket(**zero: Any) -> Any:
        return ds_config.without_large_buckets({"zero_optimization": zero})["zero_optimization"].get(
            "reduce_bucket_size"
        )

    assert bucket(stage=1) == bucket(stage=2) == ds_config.SMALL_BUCKET
    assert bucket(stage=0) is None and bucket(stage=3) is None
    assert bucket(stage=1, reduce_bucket_size=7) == 7


def updates_with_bucket(size: int, stage: int, precision: str) -> dict[str, Any]:
    """Weights after two updates of two micro-batches."""
    import torch

    from mnmt_ds.bench.random_text import random_text
    from mnmt_ds.engine.parallel.engine import Update
    from mnmt_ds.engine.parallel.zero_engine import make_zero_engine
    from mnmt_ds.methods.method import Method
    from mnmt_ds.methods.translation import translation_loss
    from mnmt_ds.models.settings import ModelSettings
    from mnmt_ds.models.transformer import Transformer, initialise
    from mnmt_ds.parallel_layout import form_layout

    ds_config.SMALL_BUCKET = size
    train = TrainSettings(batches_per_update=2, precision=precision)
    config = ds_config.resolve(ds_config.read(ROOT / "ds_configs" / f"zero{stage}.json"), train, 1, "")
    torch.manual_seed(1)
    engine = make_zero_engine(initialise(Transformer(ModelSettings(preset="tiny"), 300)), config, form_layout())
    text = random_text(1, 8, 128, 300)
    batches = [text.batch(*micro_batch)._replace(divisor=200) for micro_batch in text.micro_batches[:4]]
    method = Method(translation_loss(0.1, "auto"))
    for number in (1, 2):
        pair = batches[2 * number - 2 : 2 * number]
        engine.forward_backward(Update(pair, lambda: [], method, lambda index: None, seed=0, number=number, key=number))
        engine.step(1e-2)
    return {name: value.float() for name, value in engine.gather_weights().items()}


def weights_are_alike() -> float:
    """The largest difference that the buffer's size makes, at two stages and precisions."""
    cases = [(stage, precision) for stage in (1, 2) for precision in ("fp32", "bf16")]
    differences = []
    for case in cases:
        large, small = (updates_with_bucket(size, *case) for size in (10**9, 1000))
        differences += [float((large[name] - small[name]).abs().max()) for name in large]
    return max(differences)


@pytest.mark.slow
def test_gradients_that_are_larger_than_the_buffer() -> None:
    """The same weights, bit for bit, after updates of several micro-batches."""
    assert on_ranks(1, weights_are_alike) == [0.0]


def test_a_type_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's accelerators say it with False or nothing at all."""
    from deepspeed.accelerator import get_accelerator

    device, config = get_accelerator(), {"fp16": {"enabled": True}, "bf16": {"enabled": False}}
    for answer in (False, None):
        monkeypatch.setattr(device, "is_fp16_supported", lambda answer=answer: answer, raising=False)
        monkeypatch.setattr(device, "is_bf16_supported", lambda: True, raising=False)
        with pytest.raises(UserError, match="fp16 is not supported on this machine's cpu; take bf16 or fp32"):
            ds_config.check_device(config)
        ds_config.check_device({"bf16": {"enabled": True}})
    monkeypatch.setattr(device, "is_fp16_supported", lambda: True, raising=False)
    ds_config.check_device(config)
