"""What becomes of every key of a user's own DeepSpeed JSON: the recipe's, passed on, or refused. One table.

docs/deepspeed_json.md is written from it. Keys are those of DeepSpeed 0.19.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple


class DsConfigKey(NamedTuple):
    """A key of DeepSpeed's JSON, or a section of keys."""

    treatment: Literal["recipe", "fixed", "passed", "refused"]
    """recipe: the recipe has the value, so it says "auto" or the same; fixed: it says one value; passed: DeepSpeed gets
    it as it is; refused: an error."""
    note: str
    """The setting, for a key that the recipe decides; else what is known, or what to do instead."""
    value: Any = None
    """The value of a fixed key."""


def _recipe(note: str) -> DsConfigKey:
    return DsConfigKey("recipe", note)


def _passed(note: str) -> DsConfigKey:
    return DsConfigKey("passed", note)


def _refused(note: str) -> DsConfigKey:
    return DsConfigKey("refused", note)


PRECISION = "set train.precision alone"
DATA = "batches are the recipe's: sampler, train.max_tokens"
WATCH = (
    "metrics.jsonl and tracking.wandb have a run's figures (DeepSpeed's monitor has no training loss of a plain engine)"
)
ADAM_SETTINGS = ("torch_adam", "fused", "foreach", "capturable", "amsgrad", "bias_correction", "fp32_optimizer_states")
KEYS: Mapping[str, DsConfigKey] = {
    "train_micro_batch_size_per_gpu": _recipe("1: a micro-batch is one batch of train.max_tokens"),
    "gradient_accumulation_steps": _recipe("train.gradient_accumulation_steps, train.batches_per_update"),
    "train_batch_size": _recipe("train.batches_per_update"),
    "gradient_clipping": _recipe("train.clip_norm; left out, DeepSpeed would clip at 1.0"),
    "bf16.enabled": _recipe("train.precision"),
    "fp16.enabled": _recipe("train.precision"),
    "optimizer.params.lr": _recipe("train.lr"),
    "optimizer.params.betas": _recipe("train.adam_betas"),
    "optimizer.params.eps": _recipe("train.adam_eps"),
    "optimizer.params.weight_decay": _recipe("train.weight_decay"),
    "optimizer.params.adam_w_mode": DsConfigKey("fixed", "train.weight_decay is decoupled", True),
    "optimizer.type": _passed("Adam or AdamW, both with decoupled weight decay; left out: torch's AdamW"),
    **{f"optimizer.params.{name}": _passed("the optimizer's own") for name in ADAM_SETTINGS},
    "optimizer": _refused("Adam takes no such parameter"),
    "scheduler": _refused("the rate is the recipe's: train.lr, warmup_steps, warmup_init_lr"),
    "steps_per_print": _passed('how often DeepSpeed reports; "auto": never'),
    "zero_optimization.stage": _passed("0 to 3"),
    "zero_optimization.compute_grad_norm": DsConfigKey("fixed", "train.clip_norm and the check for NaN need it", True),
    "zero_optimization.zenflow": _refused("its updates lag behind the gradients"),
    "zero_optimization": _passed("DeepSpeed's own; what stages and split vocabularies refuse: support matrix"),
    "zero_allow_untested_optimizer": DsConfigKey("fixed", "DeepSpeed calls torch's AdamW untested", True),
    "zero_force_ds_cpu_optimizer": _passed("DeepSpeed's own"),
    "bf16.immediate_grad_update": _passed("DeepSpeed's own"),
    "bf16.check_grad_overflow": DsConfigKey("fixed", "a gradient that is not finite ends the run", True),
    "bf16": _refused("masters and Adam's states stay in fp32"),
    "bfloat16": _refused("that is the old name of bf16"),
    **{
        f"fp16.{name}": _passed("loss scaling")
        for name in ("loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis", "consecutive_hysteresis",
                     "min_loss_scale")
    },
    "fp16": _refused("masters and Adam's states stay in fp32"),
    "data_types.grad_accum_dtype": _passed(
        "type in which gradients add up, at ZeRO 1 to 3; left out: train.precision (in bf16 give fp32 for many batches)"
    ),
    "data_types": _refused(PRECISION),
    "torch_autocast": _refused(PRECISION),
    "amp": _refused(PRECISION),
    "communication_data_type": _passed(
        "type in which gradients travel and are summed over ranks; left out: train.precision"
        " (in bf16 give fp32 for many ranks)"
    ),
    "prescale_gradients": _passed("order of scaling and summing"),
    "gradient_predivide_factor": _passed("order of scaling and summing"),
    "gradient_allreduce_op": _refused("an update's loss is a mean over all of its tokens; leave it out"),
    "disable_allgather": _passed("DeepSpeed's own"),
    "aio": _passed("of offload to NVMe and of teachers on disk"),
    "activation_checkpointing": _refused("set model.activation_checkpointing"),
    "checkpoint.parallel_write": _passed("of pipeline stages"),
    "checkpoint": _refused("checkpoints are the recipe's: train.save_every, train.keep_checkpoints"),
    "nebula": _refused("checkpoints are files of the run's directory"),
    "datastates_ckpt": _refused("checkpoints are files of the run's directory"),
    "flops_profiler": _passed("DeepSpeed's count, doubled in a process with a ZeRO-3 engine; ours is runtime/mfu"),
    "wall_clock_breakdown": _passed("more log lines"),
    "memory_breakdown": _passed("more log lines"),
    "dump_state": _passed("more log lines"),
    "comms_logger": _passed("more log lines"),
    "log_level": _passed("of DeepSpeed's messages"),
    "timers": _passed("DeepSpeed's own"),
    "disable_python_gc": _passed("DeepSpeed's own"),
    "tensorboard": _refused(WATCH),
    "wandb": _refused(WATCH),
    "comet": _refused(WATCH),
    "csv_monitor": _refused(WATCH),
    "managed_gradient_accumulation": DsConfigKey("fixed", "updates end where the recipe says", True),
    "pipeline": _refused("stages are the recipe's: pipeline.stages"),
    "tensor_parallel": _refused("set tensor.vocabulary"),
    "expert_parallel": _refused("the model has no experts"),
    "sequence_parallel_size": _refused("sequences are not split"),
    "seq_parallel_communication_data_type": _refused("sequences are not split"),
    "use_data_before_expert_parallelism": _refused("the model has no experts"),
    "curriculum_learning": _refused(DATA),
    "data_efficiency": _refused(DATA),
    "dataloader_drop_last": _refused(DATA),
    "vocabulary_size": _refused("the tokenizer has it"),
    "elasticity": _refused("a run goes on on any ranks by --resume"),
    "autotuning": _refused("mnmt-ds plan shows what fits"),
    "hybrid_engine": _refused("it is for generation while training"),
    "progressive_layer_drop": _refused("every layer runs"),
    "eigenvalue": _refused("nothing is quantised"),
    "quantize_training": _refused("nothing is quantised"),
    "compression_training": _refused("nothing is compressed"),
    "weight_quantization": _refused("nothing is quantised"),
    "sparse_attention": _refused("attention is dense"),
    "sparse_gradients": _refused("gradients of embeddings are dense"),
    "graph_harvesting": _refused("CUDA graphs are not captured"),
    "compile": _refused("the model is not compiled"),
}  # fmt: skip
"""By dotted name; a section's entry holds for whatever of it has no entry of its own."""
OPTIMIZERS = ("adam", "adamw")
SECTIONS = ("optimizer", "zero_optimization", "bf16", "fp16")
"""What is looked at also where it is not enabled."""


def faults(config: Mapping[str, Any]) -> list[str]:
    """Lists the keys of a DeepSpeed configuration that cannot be used, whatever the recipe says.

    Args:
        config: as written.

    Returns:
        One phrase a fault.
    """
    return [fault for dotted, value in leaves(config) if (fault := _fault(dotted, value))]


def _fault(dotted: str, value: Any) -> str:
    """What is wrong with one value; empty where nothing is."""
    key = lookup(dotted)
    if key is None:
        near = difflib.get_close_matches(dotted.split(".")[0], [name.split(".")[0] for name in KEYS], n=1)
        return f"{dotted}: DeepSpeed has no such key" + (f" (did you mean '{near[0]}'?)" if near else "")
    if key.treatment == "fixed" and value not in (key.value, "auto"):
        return f"{dotted} is {value!r}, but {key.note}; leave it out"
    if dotted == "optimizer.type" and str(value).lower() not in OPTIMIZERS:
        return f"optimizer.type is {value!r}, but train.adam_betas and train.adam_eps are Adam's; take AdamW"
    if key.treatment == "refused" and value:  # what is off does no harm
        return f"{dotted} is not taken: {key.note}; leave it out"
    return ""


def lookup(dotted: str) -> DsConfigKey | None:
    """Finds the entry of a key: its own, or that of the nearest section around it.

    Args:
        dotted: the key's name.

    Returns:
        The entry; None where DeepSpeed has no such key.
    """
    keys = dotted.split(".")
    names = (".".join(keys[:count]) for count in range(len(keys), 0, -1))
    return next((KEYS[name] for name in names if name in KEYS), None)


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Lists a configuration's values by dotted key; a section that says ``"enabled": false`` is left out.

    Args:
        section: the configuration, or a section of it.
        prefix: the section's dotted name and a dot.

    Yields:
        Dotted name and value of each.
    """
    for name, value in section.items():
        if not isinstance(value, dict):
            yield f"{prefix}{name}", value
        elif prefix or value.get("enabled") is not False or name in SECTIONS:
            yield from leaves(value, f"{prefix}{name}.")


def page() -> str:
    """Writes docs/deepspeed_json.md.

    Returns:
        Markdown, with a final line end.
    """
    heads = {
        "recipe": ("The recipe's", 'the recipe has it: `"auto"`, left out, or the same value'),
        "fixed": ("Fixed", "one value, or left out"),
        "passed": ("Passed on", "DeepSpeed gets it as it is"),
        "refused": ("Refused", 'an error before training; what is `false` or says `"enabled": false` is let through'),
    }
    blocks = [PAGE_HEAD]
    for treatment, (title, meaning) in heads.items():
        rows = [f"| `{name}` | {key.note} |" for name, key in KEYS.items() if key.treatment == treatment]
        blocks.append(
            "\n".join([f"## {title}\n\n{meaning[0].upper()}{meaning[1:]}.\n", "| key | |", "|---|---|", *rows])
        )
    return "\n\n".join(blocks) + "\n"


PAGE_HEAD = """# Your own DeepSpeed JSON

`deepspeed:` names a file of DeepSpeed's settings, by default one of `ds_configs/`. Each key of it is one of four kinds;
any other key is an error that names the nearest known one, and so is a key that stands twice. A section's entry holds
for whatever of it is not listed itself. The table in the code is `mnmt_ds/engine/parallel/ds_config_keys.py`; DeepSpeed
0.19."""
