"""Every use of a private part of another package stands here, so that a person who upgrades reads one file.

``private_api_list`` says of each why it is needed and in which versions it was seen; ``docs/deepspeed_internals.md`` is
written from that list. ``private_block_step`` has those of one step.
"""

import datetime
import importlib
import pickle
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnmt_ds.checkpoint_writer import CheckpointWriter, WrittenFiles

Number = int | float | bool
Wrapper = Callable[[Callable[..., None]], Callable[..., None]]


def leave_out_shared_memory_op() -> None:
    """Keeps DeepSpeed from building its shared-memory op, which only inference uses, when the job is joined."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def forget_model_parallel_unit() -> None:
    """Clears the ``mpu`` that DeepSpeed keeps from a run before this one in the same process."""
    from deepspeed.utils import groups

    groups.mpu = None


def default_timeout() -> datetime.timedelta:
    """Returns how long a rank waits for others in groups that are formed without a timeout of their own.

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
        timeout: how long a rank waits for the other ranks.

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
    """Makes an engine load DeepSpeed's universal checkpoints for as long as the block runs.

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


def save_checkpoint(
    deepspeed_engine: Any, directory: Path, tag: str, others: Mapping[str, Callable[[Path], None]] | None = None
) -> WrittenFiles:
    """Writes an engine's checkpoint; an error of a file is returned and not raised, as the other ranks would wait.

    Args:
        deepspeed_engine: a DeepSpeedEngine; all of its ranks call this together.
        directory: of the checkpoint.
        tag: the folder in it.
        others: writers of further files of this rank, by the files' names.

    Returns:
        This rank's files, and the first error of them.
    """
    inner, copy_script = deepspeed_engine.checkpoint_engine, deepspeed_engine._copy_recovery_script
    writer = CheckpointWriter(inner)
    deepspeed_engine.checkpoint_engine = writer
    deepspeed_engine._copy_recovery_script = partial(writer.keep, copy_script)
    try:
        deepspeed_engine.save_checkpoint(str(directory), tag=tag, save_latest=False, exclude_frozen_parameters=True)
        for name, write in (others or {}).items():
            writer.write(write, directory / tag / name)
    finally:
        deepspeed_engine.checkpoint_engine = inner
        del deepspeed_engine._copy_recovery_script
        written = writer.finish()
    return written


def checkpoint_globals() -> list[Any]:
    """Lists the classes that DeepSpeed's checkpoints hold beside tensors and plain values.

    Python 3.11.0 to 3.11.3 pickle a member of an enumeration as a call of ``getattr``; of DeepSpeed's stages alone such
    a call gives the member.

    Returns:
        Four classes, and a function in place of ``getattr``: as torch's ``safe_globals`` takes them.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    def stage_by_name(owner: Any, name: str) -> Any:
        if owner is not ZeroStageEnum or name not in ZeroStageEnum.__members__:
            raise pickle.UnpicklingError("GLOBAL builtins.getattr")
        return owner[name]

    return [ZeroStageEnum, LossScaler, DynamicLossScaler, fragment_address, (stage_by_name, "builtins.getattr")]


def wrap_pipeline_instructions(
    deepspeed_engine: Any, wrappers: Mapping[type, Callable[..., Callable[..., None]]]
) -> None:
    """Changes what one PipelineEngine does for some instructions of its schedule; other engines keep theirs.

    Args:
        deepspeed_engine: a PipelineEngine.
        wrappers: by class of ``deepspeed.runtime.pipe.schedule``: from DeepSpeed's own function for it to the new one;
            both are called with the engine and the instruction's arguments.
    """
    instruction_map = type(deepspeed_engine)._INSTRUCTION_MAP
    changed = {instruction: wrapper(instruction_map[instruction]) for instruction, wrapper in wrappers.items()}
    deepspeed_engine._INSTRUCTION_MAP = {**deepspeed_engine._INSTRUCTION_MAP, **changed}


def pipeline_optimizer_step(deepspeed_engine: Any) -> None:
    """Takes the optimizer's step of a PipelineEngine, as its schedule's last instruction does.

    Args:
        deepspeed_engine: a PipelineEngine whose gradients are reduced.
    """
    deepspeed_engine._exec_optimizer_step()


class OwnStageLayers:
    """Mixin before ``PipelineModule`` among a class's bases: it builds its stage's layers itself, under plain names.

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
    """Yields an engine's trained weights (at ZeRO-3 this rank's partitions) and its optimizer's fp32 masters.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Yields:
        The tensors themselves, always in the same order: what is written into them is the engine's state.
    """
    for parameter in filter(lambda parameter: parameter.requires_grad, deepspeed_engine.module.parameters()):
        partition = getattr(parameter, "ds_tensor", None)  # behind a parameter's end it holds whatever the memory held
        rank = 0 if partition is None else torch.distributed.get_rank(parameter.ds_process_group)
        own = 0 if partition is None else max(0, parameter.ds_numel - rank * partition.ds_numel)
        yield parameter.data if partition is None else partition.data[:own]
    for name in (
        "single_partition_of_fp32_groups",  # ZeRO 1 and 2
        "fp32_partitioned_groups_flat",  # ZeRO 3
        "fp32_groups_flat_partition",  # bf16 at ZeRO 1 where gradients add up in fp32
        "fp32_groups_flat",  # bf16 and fp16 without ZeRO, under DeepSpeed's own Adam
    ):
        for master in getattr(deepspeed_engine.optimizer, name, ()):
            yield master.data
    for group in getattr(deepspeed_engine.optimizer, "fp32_groups", ()):  # without ZeRO, under torch's Adam
        for master in group:
            yield master.data


def undo_initial_step(deepspeed_engine: Any) -> None:
    """Undoes the optimizer's step that DeepSpeed takes with gradients of zero when it wraps an optimizer at ZeRO 0.

    In bf16 and fp16 it makes the optimizer's state by such a step: weights are decayed once and Adam has counted one
    update before the first.

    Args:
        deepspeed_engine: a DeepSpeedEngine that has just been made.
    """
    from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    if isinstance(deepspeed_engine.optimizer, FP16_Optimizer | FP16_UnfusedOptimizer):
        deepspeed_engine.optimizer.refresh_fp32_params()
        inner = inner_optimizer(deepspeed_engine)
        inner.state.clear()
        for group in inner.param_groups:
            group.pop("step", None)  # DeepSpeed's own Adam counts there


def inner_optimizer(deepspeed_engine: Any) -> Any:
    """Finds torch's (or DeepSpeed's) Adam inside DeepSpeed's wrappers.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        A torch optimizer.
    """
    return getattr(deepspeed_engine.optimizer, "optimizer", deepspeed_engine.optimizer)


def counters(deepspeed_engine: Any) -> list[tuple[Any, dict[str, Number]]]:
    """Collects the counters and scales of an engine, its optimizer and its loss scaler.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        Each object, and its counters, scales and flags by attribute, fit for ``vars(object).update``.
    """
    optimizer = deepspeed_engine.optimizer
    scalers = [getattr(optimizer, name, None) for name in ("loss_scaler", "loss_scale_config")]
    objects = [owner for owner in (deepspeed_engine, optimizer, *scalers) if owner is not None]
    return [(owner, {k: v for k, v in vars(owner).items() if isinstance(v, int | float)}) for owner in objects]


@contextmanager
def weights_written_in_place(deepspeed_engine: Any) -> Iterator[None]:
    """Runs a block that writes weights in place; all ranks enter it together.

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
    """Returns this rank's partition of a ZeRO-3 parameter.

    Args:
        parameter: a parameter that ZeRO-3 has partitioned.

    Returns:
        The partition, one-dimensional, and how many elements every rank holds.
    """
    return parameter.ds_tensor, parameter.ds_tensor.ds_numel


def zero3_gradient_buffers(deepspeed_engine: Any) -> list[Tensor]:
    """Returns ZeRO-3's flat gradient buffer, which a backward pass writes only where it uses a parameter.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        The flat buffer alone; an empty list at other stages.
    """
    buffer = getattr(deepspeed_engine.optimizer, "grad_partitions_flat_buffer", None)
    return [] if buffer is None else [buffer]


def restore_accumulation_boundary(deepspeed_engine: Any) -> None:
    """Resets an engine to decide by its own count where gradient accumulation ends.

    Args:
        deepspeed_engine: a DeepSpeedEngine whose boundary was set.
    """
    deepspeed_engine._is_gradient_accumulation_boundary = None


def forget_gradients(deepspeed_engine: Any) -> None:
    """Clears all gradients that an engine holds or accumulates.

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
    """Returns this rank's shard of a parameter's reduced gradient.

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


def backward_pass() -> int:
    """Returns the number of the backward pass under way.

    Returns:
        What no other pass of the process has; -1 outside of one.
    """
    return int(torch._C._current_graph_task_id())


def keeps_graph() -> bool:
    """Returns, within a backward pass, whether the graph is kept for another one.

    Returns:
        True where ``backward(retain_graph=True)`` runs.
    """
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def has_onednn_linear() -> bool:
    """Returns whether this build of torch has oneDNN's linear layers.

    Returns:
        True where ``onednn_linear`` can be called.
    """
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False, add: Tensor | None = None
) -> Tensor:
    """Computes x W' + b, then ReLU or plus ``add``, by oneDNN: up to twice as fast as the BLAS that torch would call.

    Args:
        x: float32 rows, (N, D).
        weight: (V, D).
        bias: (V,); None: 0.
        relu: whether negative results become 0; not with ``add``.
        add: (N, V), added to the result.

    Returns:
        (N, V).
    """
    ops: Any = torch.ops.mkldnn._linear_pointwise
    if add is not None:
        return ops.binary(x, add, weight, bias, "add")
    return ops(x, weight, bias, "relu" if relu else "none", [], "")


def write_megatron_index(
    path: Path, dtype: type[np.integer], lengths: "array[int]", modes: Any, documents: "array[int]"
) -> None:
    """Writes the index of a megatron-core dataset, byte for byte as megatron's own writer, with offsets by numpy.

    Args:
        path: the .idx file.
        dtype: type of the ids in the .bin file.
        lengths: tokens of each sequence.
        modes: as the builder has them.
        documents: first sequence of each document, and their number at the end.
    """
    from megatron.core.datasets.indexed_dataset import _IndexWriter

    class IndexWriter(_IndexWriter):
        """Megatron's own adds the offsets up in Python, into a list of as many numbers."""

        def _sequence_pointers(self, sequence_lengths: "array[int]") -> NDArray[np.int64]:
            sizes = np.asarray(sequence_lengths, np.int64) * np.dtype(dtype).itemsize
            return np.cumsum(sizes) - sizes

    with IndexWriter(str(path), dtype) as writer:
        writer.write(lengths, modes, documents)
