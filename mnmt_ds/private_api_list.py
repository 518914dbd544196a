"""What is private of other packages and used by this one: what, why, and in which versions it was seen.

``tests/unit/test_private_apis.py`` looks every entry of ``PRIVATE_APIS`` up in the installed packages and names what
has vanished; ``docs/deepspeed_internals.md`` is written from it (``private_apis_page``). ``private_apis`` has the uses.
"""

import importlib
import inspect
from operator import attrgetter
from typing import Any, NamedTuple

TESTED = {
    "torch": (">=2.11,<2.14", "2.13.0"),
    "deepspeed": (">=0.19.8,<0.20", "0.19.8"),
    "megatron-core": (">=0.16,<0.17", "0.16.1"),
    "sacrebleu": (">=2.5", "2.6.0"),
    "babel": (">=2.16", "2.19.0"),
}
"""The range of versions that pyproject.toml declares, and the version that the tests ran with last."""


class PrivateApi(NamedTuple):
    """Private names of one module or class of another package, and what they are used for."""

    owner: str
    """``module``, ``module:Class``."""
    names: tuple[str, ...]
    """Its attributes; also such as its code sets on objects."""
    use: str
    """What is done with them."""
    reason: str
    """Why no public interface does."""
    used_in: str
    """The file of mnmt_ds that needs them."""

    @property
    def seen(self) -> str:
        """The version of the package with which the tests last ran."""
        package = self.owner.split(":")[0].split(".")[0]
        return TESTED.get({"megatron": "megatron-core"}.get(package, package), ("", "Python 3.11"))[1]

    def missing(self) -> list[str]:
        """Lists the names that the installed package does not have.

        Returns:
            A subset of ``names``.
        """
        module_name, _, class_name = self.owner.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            return list(self.names)
        owner = getattr(module, class_name, None) if class_name else module
        return [name for name in self.names if not _has(owner, name)]


def _has(owner: Any, name: str) -> bool:
    """Whether a module or class has an attribute, or its own code sets it on objects."""
    if owner is None:
        return False
    try:
        attrgetter(name)(owner)
    except AttributeError:
        if not inspect.isclass(owner) and not inspect.ismodule(owner):
            return False
        return f"{'self' if inspect.isclass(owner) else ''}.{name}" in inspect.getsource(owner)
    return True


PIPELINE, ZERO = "deepspeed.runtime.pipe", "deepspeed.runtime.zero"
PRIVATE_APIS = (
    PrivateApi(
        "deepspeed.ops", ("__compatible_ops__",), "the entry of deepspeed_shm_comm is set to False on a CPU",
        "that op serves inference alone, and init_distributed would take most of a minute to build it",
        "distributed.py",
    ),
    PrivateApi(
        "deepspeed.utils.groups", ("mpu",), "set to None before a run forms its groups",
        "the groups of a run before it in the same process would be taken for the new one's", "parallel_layout.py",
    ),
    PrivateApi(
        "torch.distributed.distributed_c10d", ("default_pg_timeout", "default_pg_nccl_timeout"),
        "set to train.timeout_minutes within a job",
        "DeepSpeed forms its groups with torch's defaults (10 minutes under NCCL), whatever the job asks for",
        "distributed.py",
    ),
    PrivateApi(
        f"{ZERO}.partition_parameters", ("assert_ints_same_as_other_ranks",),
        "replaced by a comparison within a student's team, for as long as a split run lasts",
        "ZeRO-3 compares orders of modules over all ranks of the job, also where an engine has some alone",
        "engine/training.py",
    ),
    PrivateApi(
        f"{ZERO}.partitioned_param_coordinator", ("assert_ints_same_as_other_ranks",),
        "replaced as in partition_parameters", "it is imported by name there", "engine/training.py",
    ),
    PrivateApi(
        "deepspeed.runtime.engine:DeepSpeedEngine", ("checkpoint_engine", "_copy_recovery_script"),
        "replaced while a checkpoint is written, by such as hash what they write and keep the first error",
        "a rank whose disk is full would leave the others in a barrier; torch's own writer hides the error number; and"
        " no file is read again for its SHA-256",
        "engine/parallel/zero_engine.py",
    ),
    PrivateApi(
        f"{PIPELINE}.engine:PipelineEngine", ("_INSTRUCTION_MAP", "_exec_optimizer_step"),
        "an engine's own map, in which OptimizerStep does nothing (it is called later) and benchmarks time passes",
        "train_batch does forward, backward and step in one call; ours are separate calls, as on any engine",
        "engine/parallel/pipeline_engine.py",
    ),
    PrivateApi(
        f"{PIPELINE}.module:PipelineModule",
        ("_partition_layers", "_set_bounds", "_local_start", "_local_stop", "parts"),
        "the first is overridden, the others are called and read",
        "stages are cut by measured times, which no partition_method offers", "engine/parallel/pipeline_module.py",
    ),
    PrivateApi(
        f"{PIPELINE}.module:PipelineModule", ("_build", "tied_modules", "forward_funcs", "tied_weight_attrs"),
        "the first is overridden, the others are set",
        "layers keep the plain model's names, so that weights and checkpoints are the same on any layout; a tied"
        " matrix must not get a second name",
        "engine/parallel/pipeline_module.py",
    ),
    PrivateApi(
        f"{PIPELINE}.module:PipelineModule", ("_synchronize_tied_weights",), "overridden to run without autograd",
        "autograd would record the broadcast", "engine/parallel/pipeline_module.py",
    ),
    PrivateApi(
        "deepspeed.runtime.engine:DeepSpeedEngine", ("_config", "load_universal_checkpoint"),
        "_config.load_universal_checkpoint is set while a checkpoint is loaded",
        "it is a setting of the whole engine; whether a checkpoint moves is known only when it is loaded",
        "engine/parallel/loading.py",
    ),
    *(
        PrivateApi(
            owner, (name,), "the only classes of DeepSpeed that are made while a checkpoint is loaded",
            "it loads with weights_only=False; its files hold objects of these classes beside tensors and values",
            "engine/parallel/loading.py",
        )
        for owner, name in (
            (f"{ZERO}.config", "ZeroStageEnum"),
            ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
            ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
            ("deepspeed.utils.tensor_fragment", "fragment_address"),
        )
    ),
    PrivateApi(
        "deepspeed.runtime.engine:DeepSpeedEngine", ("_is_gradient_accumulation_boundary",),
        "set back to None after passes that serve no update",
        "set_gradient_accumulation_boundary cannot give the decision back to the engine",
        "engine/parallel/gradients.py",
    ),
    PrivateApi(
        f"{ZERO}.stage_1_and_2:DeepSpeedZeroOptimizer", ("averaged_gradients", "micro_step_id", "reset_cpu_buffers"),
        "emptied, set to -1 and called after passes that serve no update",
        "zero_grad leaves gradients there until a step, and what comes next would be added to them",
        "engine/parallel/gradients.py",
    ),
    PrivateApi(
        f"{ZERO}.stage3:DeepSpeedZeroOptimizer_Stage3",
        ("averaged_gradients", "micro_step_id", "reset_cpu_buffers", "grad_partitions_flat_buffer"),
        "as at stages 1 and 2; the buffer is copied before such passes and put back",
        "a pass writes the parameters that it uses into it", "engine/parallel/gradients.py",
    ),
    PrivateApi(
        f"{ZERO}.stage3:DeepSpeedZeroOptimizer_Stage3", ("checkpoint_event_prologue", "checkpoint_event_epilogue"),
        "called around a write of weights in place",
        "small parameters are whole on every rank and must be gathered anew", "engine/parallel/state_snapshot.py",
    ),
    PrivateApi(
        "deepspeed.utils.mixed_precision_linkage", ("_hp_mapping", "_index_in_param_group"),
        "read: a parameter's reduced gradient at ZeRO 1 and 2",
        "safe_get_full_grad would gather it, safe_get_local_grad is for ZeRO-3 alone", "engine/parallel/gradients.py",
    ),
    PrivateApi(
        "deepspeed.utils.tensor_fragment:tensor_fragment", ("get_lp_grad_fragment",), "called, with _hp_mapping",
        "as _hp_mapping", "engine/parallel/gradients.py",
    ),
    PrivateApi(
        f"{ZERO}.partition_parameters", ("ds_id", "ds_tensor", "ds_numel"),
        "read: this rank's partition of a ZeRO-3 parameter",
        "a rank copies its own shard of a teacher, and puts its weights back, without gathering them",
        "engine/parallel/zero_engine.py, state_snapshot.py",
    ),
    PrivateApi(
        "deepspeed.utils.mixed_precision_linkage", ("_hp_mapping",), "read: a parameter's part of the fp32 masters",
        "safe_get_full_fp32_param would gather it; the weights' moving average is kept by shards", "private_masters.py",
    ),
    PrivateApi(
        "deepspeed.utils.tensor_fragment:tensor_fragment", ("get_hp_fragment",),
        "called, with _hp_mapping", "as above", "private_masters.py",
    ),
    PrivateApi(
        f"{ZERO}.stage_1_and_2:DeepSpeedZeroOptimizer", ("update_lp_params",),
        "called where averaged weights take the masters' place, and behind it",
        "weights are made from masters in a step alone", "private_masters.py",
    ),
    PrivateApi(
        f"{ZERO}.stage3:DeepSpeedZeroOptimizer_Stage3", ("grad_position", "get_param_id"),
        "read: where a parameter's partition begins among the fp32 masters", "as of _hp_mapping", "private_masters.py",
    ),
    PrivateApi(
        "deepspeed.runtime.bf16_optimizer:BF16_Optimizer", ("update_lp_params",), "as at ZeRO 1 and 2", "as there",
        "private_masters.py",
    ),
    PrivateApi(
        "deepspeed.runtime.fp16.fused_optimizer:FP16_Optimizer", ("fp16_groups",),
        "read: whose masters fp32_groups_flat has; those of FP16_UnfusedOptimizer alike", "as of _hp_mapping",
        "private_masters.py",
    ),
    PrivateApi(
        f"{ZERO}.stage_1_and_2:DeepSpeedZeroOptimizer", ("single_partition_of_fp32_groups",),
        "copied and put back: fp32 masters of ZeRO 1 and 2", "no public call restores them in place",
        "engine/parallel/state_snapshot.py",
    ),
    PrivateApi(
        f"{ZERO}.stage_1_and_2:DeepSpeedZeroOptimizer",
        (
            "has_overflow_partitioned_grads_serial", "get_grad_norm_direct", "_get_preflattened_grad_partition",
            "unscale_and_clip_grads", "copy_grads_in_partition", "average_tensor", "_use_compact_grad_partition_buffer",
            "averaged_gradients", "partition_size", "bit16_groups", "reduce_bucket_size", "contiguous_gradients",
            "dp_process_group", "cpu_offload", "zenflow", "torch_autocast_gradscaler",
        ),
        "answered by blocks of the gradient, where torch's fused Adam steps on the CPU",
        "a step makes three whole copies of the gradient: flattened, in float32, in float64 for its norm",
        "private_block_step.py",
    ),
    PrivateApi(
        "torch.optim:Adam", ("_init_group",), "called: makes a group's state", "as above", "private_block_step.py",
    ),
    PrivateApi(
        f"{ZERO}.stage_1_and_2:DeepSpeedZeroOptimizer",
        (
            "check_grad_overflow", "scaled_global_norm", "unscale_and_clip_grads", "averaged_gradients",
            "params_in_partition", "bit16_groups", "model_parallel_rank", "dp_process_group",
            "_model_parallel_all_reduce", "clip_grad", "compute_grad_norm", "has_moe_layers",
        ),
        "answered on the device, where torch's fused Adam steps there",
        "a step waits for the device six times, so that the host never runs ahead of it", "private_late_checks.py",
    ),
    PrivateApi(
        f"{ZERO}.stage_1_and_2", ("get_norm_dtype", "is_model_parallel_parameter"), "called", "as above",
        "private_late_checks.py",
    ),
    PrivateApi(
        "torch._C", ("_current_graph_task_id",), "asked in a backward",
        "rows of a tied embedding's gradient belong to one pass", "private_apis.py",
    ),
    PrivateApi(
        f"{ZERO}.stage3:DeepSpeedZeroOptimizer_Stage3", ("fp32_partitioned_groups_flat",),
        "copied and put back: fp32 masters of ZeRO-3", "as above", "engine/parallel/state_snapshot.py",
    ),
    PrivateApi(
        "deepspeed.runtime.bf16_optimizer:BF16_Optimizer", ("fp32_groups_flat_partition",),
        "copied and put back: fp32 masters of bf16 at ZeRO 1 where gradients add up in fp32", "as above",
        "engine/parallel/state_snapshot.py",
    ),
    PrivateApi(
        "deepspeed.runtime.fp16.fused_optimizer:FP16_Optimizer", ("fp32_groups_flat", "refresh_fp32_params"),
        "copied and put back: fp32 masters of bf16 and fp16 without ZeRO under DeepSpeed's own Adam; the method is"
        " called right after deepspeed.initialize, and the inner optimizer's state emptied",
        "as above; deepspeed.initialize takes a step with gradients of zero: weights are decayed once, Adam has counted"
        " one update before the first",
        "engine/parallel/state_snapshot.py, zero_engine.py",
    ),
    PrivateApi(
        "deepspeed.runtime.fp16.unfused_optimizer:FP16_UnfusedOptimizer",
        ("fp32_groups", "loss_scale_config", "refresh_fp32_params"),
        "as of FP16_Optimizer, under torch's Adam; the loss scale is copied and put back, too", "as above",
        "engine/parallel/state_snapshot.py, zero_engine.py",
    ),
    PrivateApi(
        "torch._C._autograd", ("_get_current_graph_task_keep_graph",), "asked in a backward",
        "gradients that are known already are scaled in place only where the graph is not kept", "private_apis.py",
    ),
    PrivateApi(
        "megatron.core.datasets.indexed_dataset", ("_IndexWriter",), "one method is overridden",
        "its own adds offsets up in Python, in a list of as many numbers as the corpus has sentences",
        "private_apis.py",
    ),
    PrivateApi(
        "torch._ops:ops", ("mkldnn._linear_pointwise",), "linear layers of float32 on a CPU",
        "torch.nn.functional.linear calls a BLAS that takes up to twice as long", "private_apis.py",
    ),
    PrivateApi(
        "deepspeed.launcher.runner",
        ("parse_args", "parse_inclusion_exclusion", "apply_num_nodes_and_gpus", "DLTS_HOSTFILE", "EXPORT_ENVS"),
        "a job's options are read as the launcher reads them",
        "preflight must see the nodes that the launcher will take", "launching/job.py",
    ),
    PrivateApi(
        "deepspeed.runtime.pipe.schedule", ("OptimizerStep", "ForwardPass", "BackwardPass"),
        "the instructions whose execution is wrapped", "a step is split in two, and stages are timed",
        "engine/parallel/pipeline_engine.py, bench/stage_timing.py",
    ),
    PrivateApi(
        "deepspeed.runtime.pipe.topology", ("PipeModelDataParallelTopology",), "made of the run's groups",
        "PipelineModule takes no groups otherwise", "engine/parallel/pipeline_module.py",
    ),
    PrivateApi(
        "deepspeed.runtime.utils", ("partition_balanced",), "stages of equal cost", "as DeepSpeed itself would cut",
        "engine/parallel/pipeline_module.py",
    ),
    PrivateApi(
        "deepspeed.runtime.checkpoint_engine", ("TorchCheckpointEngine",), "the class whose save is overridden",
        "files get their SHA-256 while they are written", "checkpoint_writer.py",
    ),
    PrivateApi(
        "sacrebleu.metrics.base:Metric", ("_extract_corpus_statistics", "_aggregate_and_compute"),
        "each sentence's statistics and their corpus score", "the paired bootstrap sums them over resamples",
        "evaluation/scores.py",
    ),
    PrivateApi(
        "babel.core:Locale", ("_data",), "names of units", "no public property lists them", "data/readers/cldr.py",
    ),
    PrivateApi(
        "torch", ("_dynamo",), "its recompile_limit is raised", "later shapes would silently run eager",
        "bench/loss_baselines.py, models/compiled.py",
    ),
    PrivateApi(
        "argparse:ArgumentParser", ("_actions",), "options are listed", "pages and suggestions are made of them",
        "cli/main.py, cli/reference.py",
    ),
    PrivateApi(
        "argparse", ("_HelpAction", "_SubParsersAction"), "told from other options", "as above", "cli/reference.py",
    ),
)  # fmt: skip
"""All of them, in the order of the files that use them."""


def vanished() -> list[str]:
    """Lists private names that the installed packages do not have, each with the file that needs it.

    Returns:
        One line each; empty where all are there.
    """
    return [f"{api.owner}: {name} (for {api.used_in}: {api.use})" for api in PRIVATE_APIS for name in api.missing()]
