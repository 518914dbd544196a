"""Everything private of other packages that this one touches: what, why, and in which versions it was seen.

Such parts may change with any release. All uses go through this file or are declared in it, so that a person who
upgrades reads one page. ``tests/unit/test_private_apis.py`` looks every entry of ``PRIVATE_APIS`` up in the installed
packages and names what has vanished; ``docs/deepspeed_internals.md`` is written from it (``private_apis_page``).
"""

import datetime
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

TESTED = {
    "torch": (">=2.11,<2.14", "2.13.0"),
    "deepspeed": (">=0.19,<0.20", "0.19.8"),
    "megatron-core": (">=0.16,<0.17", "0.16.1"),
}
"""The range of versions that pyproject.toml declares, and the version that the tests ran with last."""
Number = int | float | bool
Wrapper = Callable[[Callable[..., None]], Callable[..., None]]


class PrivateApi(NamedTuple):
    """Private names of one module or class of another package."""

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
        """The names that the installed package does not have.

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
    text = f"{'self' if inspect.isclass(owner) else ''}.{name}"
    return owner is not None and (hasattr(owner, name) or text in inspect.getsource(owner))


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
        f"{ZERO}.stage_1_and_2:DeepSpeedZeroOptimizer", ("single_partition_of_fp32_groups",),
        "copied and put back: fp32 masters of ZeRO 1 and 2", "no public call restores them in place",
        "engine/parallel/state_snapshot.py",
    ),
    PrivateApi(
        f"{ZERO}.stage3:DeepSpeedZeroOptimizer_Stage3", ("fp32_partitioned_groups_flat",),
        "copied and put back: fp32 masters of ZeRO-3", "as above", "engine/parallel/state_snapshot.py",
    ),
    PrivateApi(
        "deepspeed.runtime.bf16_optimizer:BF16_Optimizer", ("fp32_groups_flat_partition",),
        "copied and put back: fp32 masters of bf16 without ZeRO", "as above", "engine/parallel/state_snapshot.py",
    ),
    PrivateApi(
        "deepspeed.runtime.fp16.fused_optimizer:FP16_Optimizer", ("fp32_groups_flat",),
        "copied and put back: fp32 masters of fp16 without ZeRO", "as above", "engine/parallel/state_snapshot.py",
    ),
    PrivateApi(
        "torch._C._autograd", ("_get_current_graph_task_keep_graph",), "asked in a backward",
        "gradients that are known already are scaled in place only where the graph is not kept", "kernels/autograd.py",
    ),
    PrivateApi(
        "megatron.core.datasets.indexed_dataset", ("_IndexWriter",), "one method is overridden",
        "its own adds offsets up in Python, in a list of as many numbers as the corpus has sentences",
        "data/indexed.py",
    ),
    PrivateApi(
        "argparse:ArgumentParser", ("parse_known_args",), "replaced on one parser",
        "a subcommand's parser is called by it, and only parse_known_intermixed_args takes files after options",
        "cli/translate.py",
    ),
)  # fmt: skip
"""All of them, in the order of the files that use them."""


def vanished() -> list[str]:
    """Private names that the installed packages do not have, each with the file that needs it.

    Returns:
        One line each; empty where all are there.
    """
    return [f"{api.owner}: {name} (for {api.used_in}: {api.use})" for api in PRIVATE_APIS for name in api.missing()]


def leave_out_shared_memory_op() -> None:
    """Keeps DeepSpeed from building its shared-memory op, which serves inference alone, when the job is joined."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def forget_model_parallel_unit() -> None:
    """Lets DeepSpeed forget the ``mpu`` of a run before this one in the same process."""
    from deepspeed.utils import groups

    groups.mpu = None


def default_timeout() -> datetime.timedelta:
    """How long a rank waits for its peers in groups that are formed without a timeout of their own.

    Returns:
        torch's present default.
    """
    from torch.distributed import distributed_c10d

    timeout: datetime.timedelta = distributed_c10d.default_pg_timeout
    return timeout


@contextmanager
def default_timeout_of(timeout: datetime.timedelta) -> Iterator[None]:
    """Sets torch's default timeout of groups for as long as the block runs.

    Args:
        timeout: how long a rank waits for its peers.

    Returns:
        Nothing: a context manager.
    """
    c10d: Any = importlib.import_module("torch.distributed.distributed_c10d")
    before = c10d.default_pg_timeout, c10d.default_pg_nccl_timeout
    c10d.default_pg_timeout = c10d.default_pg_nccl_timeout = timeout
    try:
        yield
    finally:
        c10d.default_pg_timeout, c10d.default_pg_nccl_timeout = before


@contextmanager
def module_orders_compared_by(compare: Callable[[list[int]], None]) -> Iterator[None]:
    """Replaces ZeRO-3's comparison of module orders between ranks for as long as the block runs.

    Args:
        compare: called on the ranks of an engine with their order of modules; raises where they differ.

    Returns:
        Nothing: a context manager.
    """
    from deepspeed.runtime.zero import partition_parameters, partitioned_param_coordinator

    modules = (partition_parameters, partitioned_param_coordinator)
    before = [module.assert_ints_same_as_other_ranks for module in modules]
    for module in modules:
        module.assert_ints_same_as_other_ranks = compare
    try:
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            module.assert_ints_same_as_other_ranks = function


@contextmanager
def universal_checkpoint(deepspeed_engine: Any) -> Iterator[None]:
    """Lets an engine load DeepSpeed's universal checkpoints for as long as the block runs.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        Nothing: a context manager.
    """
    deepspeed_engine._config.load_universal_checkpoint = True
    try:
        yield
    finally:
        deepspeed_engine._config.load_universal_checkpoint = False


def wrap_pipeline_instructions(
    deepspeed_engine: Any, wrappers: Mapping[type, Callable[..., Callable[..., None]]]
) -> None:
    """Changes what one PipelineEngine does for some instructions of its schedule; other engines keep theirs.

    Args:
        deepspeed_engine: a PipelineEngine.
        wrappers: by class of ``deepspeed.runtime.pipe.schedule``: from DeepSpeed's own function for it to the new one;
            both are called with the engine and the instruction's arguments.
    """
    known = type(deepspeed_engine)._INSTRUCTION_MAP
    changed = {instruction: wrapper(known[instruction]) for instruction, wrapper in wrappers.items()}
    deepspeed_engine._INSTRUCTION_MAP = {**deepspeed_engine._INSTRUCTION_MAP, **changed}


def pipeline_optimizer_step(deepspeed_engine: Any) -> None:
    """The optimizer's step of a PipelineEngine, as its schedule's last instruction takes it.

    Args:
        deepspeed_engine: a PipelineEngine whose gradients are reduced.
    """
    deepspeed_engine._exec_optimizer_step()


class OwnStageLayers:
    """Comes before ``PipelineModule`` among a class's bases: it builds its stage's layers itself, under plain names.

    The class has ``cut_stages``, whose result becomes ``parts``, and ``build_stage``.
    """

    _local_start: int
    _local_stop: int
    _modules: dict[str, Any]
    num_stages: int
    stage_id: int

    cut_stages: Callable[[], list[int]]
    """The first layer of every stage, and the number of layers."""
    build_stage: Callable[[], tuple[list[Callable[..., Any]], dict[str, nn.Module]]]
    """Makes this stage's layers: what is called in turn, and the tied ones by key."""

    @property
    def layer_range(self) -> tuple[int, int]:
        """This stage's first layer and the one after its last."""
        return self._local_start, self._local_stop

    def _partition_layers(self, method: str = "") -> None:
        self.parts = self.cut_stages()
        self._set_bounds(self.parts[self.stage_id], self.parts[self.stage_id + 1])  # type: ignore[attr-defined]

    def _build(self) -> None:
        self.forward_funcs, tied = self.build_stage()
        del self._modules["tied_modules"]
        self.__dict__["tied_modules"] = tied  # no submodule, lest the layer has two names
        self.tied_weight_attrs = {key: ["weight"] for key in tied}

    @torch.no_grad()
    def _synchronize_tied_weights(self) -> None:
        """As PipelineModule's, which would have autograd record the broadcast."""
        super()._synchronize_tied_weights()  # type: ignore[misc]


def weight_and_master_tensors(deepspeed_engine: Any) -> Iterator[Tensor]:
    """An engine's weights (at ZeRO-3 this rank's partitions) and the fp32 masters of its optimizer.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Yields:
        The tensors themselves, always in the same order: what is written into them is the engine's state.
    """
    for parameter in deepspeed_engine.module.parameters():
        yield parameter.ds_tensor.data if hasattr(parameter, "ds_tensor") else parameter.data
    for name in (
        "single_partition_of_fp32_groups",  # ZeRO 1 and 2
        "fp32_partitioned_groups_flat",  # ZeRO 3
        "fp32_groups_flat_partition",  # bf16 without ZeRO
        "fp32_groups_flat",  # fp16 without ZeRO
    ):
        for master in getattr(deepspeed_engine.optimizer, name, ()):
            yield master.data


def inner_optimizer(deepspeed_engine: Any) -> Any:
    """torch's (or DeepSpeed's) Adam inside whatever wraps it.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        A torch optimizer.
    """
    return getattr(deepspeed_engine.optimizer, "optimizer", deepspeed_engine.optimizer)


def counters(deepspeed_engine: Any) -> list[tuple[Any, dict[str, Number]]]:
    """The objects of an engine that count (itself, its optimizer, its loss scaler), with all their numbers.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        Each object, and its counters, scales and flags by attribute, fit for ``vars(object).update``.
    """
    optimizer = deepspeed_engine.optimizer
    objects = [
        part for part in (deepspeed_engine, optimizer, getattr(optimizer, "loss_scaler", None)) if part is not None
    ]
    return [(part, {k: v for k, v in vars(part).items() if isinstance(v, int | float)}) for part in objects]


@contextmanager
def weights_written_in_place(deepspeed_engine: Any) -> Iterator[None]:
    """Lets weights be written within the block; all ranks enter it together.

    At ZeRO-3 small parameters are whole on every rank: they are partitioned before and gathered anew behind.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        Nothing: a context manager.
    """
    partitioned = deepspeed_engine.zero_optimization_stage() == 3
    if partitioned:
        deepspeed_engine.optimizer.checkpoint_event_prologue()
    yield
    if partitioned:
        deepspeed_engine.optimizer.checkpoint_event_epilogue()


def zero3_partition(parameter: Any) -> tuple[Tensor, int]:
    """This rank's partition of a ZeRO-3 parameter.

    Args:
        parameter: a parameter that ZeRO-3 has partitioned.

    Returns:
        The partition, flat, and how many elements every rank holds.
    """
    return parameter.ds_tensor, parameter.ds_tensor.ds_numel


def zero3_gradient_buffers(deepspeed_engine: Any) -> list[Tensor]:
    """ZeRO-3's flat buffer of gradients, of which a pass writes the parameters that it uses; empty at other stages.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        At most one tensor.
    """
    buffer = getattr(deepspeed_engine.optimizer, "grad_partitions_flat_buffer", None)
    return [] if buffer is None else [buffer]


def give_boundary_back(deepspeed_engine: Any) -> None:
    """Lets an engine decide again by its own count where gradient accumulation ends.

    Args:
        deepspeed_engine: a DeepSpeedEngine whose boundary was set.
    """
    deepspeed_engine._is_gradient_accumulation_boundary = None


def forget_gradients(deepspeed_engine: Any) -> None:
    """Empties all that an engine holds or accumulates of gradients.

    Args:
        deepspeed_engine: a DeepSpeedEngine.
    """
    optimizer = deepspeed_engine.optimizer
    deepspeed_engine.zero_grad()
    optimizer.zero_grad()
    if hasattr(optimizer, "averaged_gradients"):  # ZeRO 1 to 3
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
        optimizer.micro_step_id = -1  # as after a step: what comes next is not added to anything
        optimizer.reset_cpu_buffers()
    if deepspeed_engine.zero_optimization_stage() == 3:
        optimizer.averaged_gradients.clear()
        optimizer.grad_partitions_flat_buffer.zero_()


def reduced_gradient_shard(parameter: Any, rank: int, size: int) -> Tensor | None:
    """This rank's shard of a parameter's reduced gradient.

    Args:
        parameter: a parameter of a DeepSpeedEngine's module after a backward pass.
        rank: this rank among those that the gradient is averaged over.
        size: how many these are.

    Returns:
        The shard, flat; how it is cut is DeepSpeed's affair (ZeRO 1 to 3), or by equal parts. None: no shard here.
    """
    from deepspeed.utils import safe_get_local_grad

    if hasattr(parameter, "ds_id"):  # ZeRO-3
        return safe_get_local_grad(parameter)  # type: ignore[no-any-return]
    if hasattr(parameter, "_hp_mapping"):  # ZeRO-1 and 2, and bf16 without ZeRO
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        gradient: Tensor = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
        address = mapping.lp_fragment_address
        return gradient.narrow(0, address.start, address.numel) if gradient.numel() == parameter.numel() else gradient
    length = -(-parameter.numel() // size)
    whole = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return whole.flatten()[rank * length : (rank + 1) * length]
