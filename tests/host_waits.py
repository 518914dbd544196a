"""Counts the calls in which the host would wait for a GPU, without one: reads of what is on the device, by operator.

What is on the device: the storages that are named, what an operation makes of them, and what is made with an explicit
``device=``. Waits are the reads of a value (item, bool, float, tolist, numpy, cpu), operations whose result's size is
in the data (nonzero, bincount, masks as indices), copies from the device to what is not there, and a tensor made of a
Python number on the device, which is a copy that the host waits for. A ``HostCopy`` that is read when a newer one is on
its way is no such wait: what the device was given since goes on beside it.
"""

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mnmt_ds.host_copy import HostCopy

WAITS = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.bincount", "aten.masked_select", "aten.equal", "aten._unique2",
    "aten.unique_dim", "aten.unique_consecutive", "aten.is_nonzero",
}  # fmt: skip


FROM_HOST = {"aten.scalar_tensor", "aten._to_copy"}
"""Told a device for what they make, though nobody asked for one."""


class HostWaits(TorchDispatchMode):
    """While it is on, ``places`` counts waits by the line of ours (or else of the library) that makes them."""

    def __init__(self, on_device: Iterable[Tensor]) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self.late_reads = 0
        """Reads of numbers that the device has made before it came to what was launched last."""
        self._storages: dict[int, Any] = {}  # held, so that no address comes again
        for tensor in on_device:
            self.mark(tensor)

    def mark(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage
        return tensor

    def is_on_device(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def wait(self) -> None:
        """Counts one, at the innermost line outside of torch and of this file."""
        frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.filename != __file__]
        ours = [
            f for f in frames if "mnmt_ds/" in f.filename.replace("/site-packages/", "/") or "deepspeed" in f.filename
        ]
        frame = (ours or frames)[-1]
        self.places[f"{frame.filename.rsplit('/', 1)[-1]}:{frame.name}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(map(self.is_on_device, given))
        name = str(func.overloadpacket)
        if on_device:
            by_mask = name in ("aten.index", "aten.index_put", "aten.index_put_") and any(
                index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
            )
            to_host = name == "aten.copy_" and self.is_on_device(args[1]) and not self.is_on_device(args[0])
            if name in WAITS or by_mask or to_host:
                self.wait()
        made = func(*args, **kwargs)
        if on_device or (kwargs.get("device") is not None and name not in FROM_HOST):
            for leaf in tree_leaves(made):
                if isinstance(leaf, Tensor):
                    self.mark(leaf)
        return made


@contextmanager
def host_waits(on_device: Iterable[Tensor]) -> Iterator[HostWaits]:
    """Counts for as long as the block runs."""
    waits = HostWaits(on_device)

    def reading(name: str) -> Any:
        original = getattr(Tensor, name)

        def read(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            if waits.is_on_device(tensor):
                waits.wait()
            return original(tensor, *arguments, **options)

        return mock.patch.object(Tensor, name, read)

    new_tensor, tensor_of = Tensor.new_tensor, torch.tensor

    def copied(like: Tensor, *arguments: Any, **options: Any) -> Tensor:
        made = new_tensor(like, *arguments, **options)
        if waits.is_on_device(like):
            waits.wait()
            waits.mark(made)
        return made

    def made_there(*arguments: Any, device: Any = None, **options: Any) -> Tensor:
        made = tensor_of(*arguments, device=device, **options)
        if device is not None:
            waits.wait()
            waits.mark(made)
        return made

    new_copy, read_list, copies = HostCopy.__init__, Tensor.tolist, [None]

    def copy_made(copy: HostCopy, values: Tensor) -> None:
        new_copy(copy, values)
        copies.append(copy)

    def copy_read(copy: HostCopy) -> Any:
        if copy is copies[-1]:
            waits.wait()
        else:
            waits.late_reads += 1
        return read_list(copy._values)

    with mock.patch.object(HostCopy, "__init__", copy_made), mock.patch.object(HostCopy, "read", copy_read), \
            reading("tolist"), reading("numpy"), reading("cpu"), mock.patch.object(Tensor, "new_tensor", copied), \
            mock.patch.object(torch, "tensor", made_there), waits:  # fmt: skip
        yield waits
