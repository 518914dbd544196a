"""LSSD's teachers: of each language pair the best checkpoint so far, and the switch that lets it teach.

A teacher is named by its version, the update of the validation that made it. Pairs that improved at the same
validation share one copy, held on the CPU in half precision; at most two models stand on the device.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.errors import UserError

ON_DEVICE = 2
"""Teacher models that may stand on the device at once."""


class TeacherBank:
    """State of Algorithm 1 (paper 1): ``best[l]``, the teacher of l, and the switch of l."""

    def __init__(
        self,
        pairs: Sequence[str],
        dtype: torch.dtype,
        blank_model: Callable[[], nn.Module],
        snapshot: Callable[[torch.dtype], dict[str, Tensor]],
        load_snapshot: Callable[[int], dict[str, Tensor]],
    ) -> None:
        self.dtype = dtype
        self.best: dict[str, float] = dict.fromkeys(pairs, float("inf"))
        self.switch: dict[str, bool] = dict.fromkeys(pairs, False)
        self.version: dict[str, int | None] = dict.fromkeys(pairs)
        self._blank_model, self._snapshot, self._load_snapshot = blank_model, snapshot, load_snapshot
        self._weights: dict[int, dict[str, Tensor]] = {}
        self._on_device: OrderedDict[int, nn.Module] = OrderedDict()

    def update(self, report: Any) -> None:
        """Algorithm 1, lines 12 to 20: a pair that improved gets a new teacher and no lesson; the others are taught."""
        for pair, dev in report.dev.items():
            if dev < self.best[pair]:
                self.switch[pair], self.best[pair], self.version[pair] = False, dev, report.update
            else:
                self.switch[pair] = self.version[pair] is not None
        self._keep_only(self.snapshots())
        if report.update in self.snapshots():
            self._weights[report.update] = self._snapshot(self.dtype)
            self._on_device.pop(report.update, None)

    def states(self, pair: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """The pair's teacher on a batch: decoder states (B, T, E) and projection (V, E); no dropout, no gradient."""
        version = self.version[pair]
        if version is None:
            raise RuntimeError(f"{pair} has no teacher yet")
        teacher = self._place(version)
        with torch.no_grad():
            return teacher(batch.source_BS, batch.decoder_BT).decoder_BTD, teacher.head.weight  # type: ignore[union-attr,return-value]

    def cpu_bytes(self) -> int:
        """Bytes of all teachers held by this rank on the CPU."""
        return sum(t.numel() * t.element_size() for weights in self._weights.values() for t in weights.values())

    def report(self, update: int) -> dict[str, float]:
        """Metric keys of every pair; a teacher's age is in updates."""
        keys: dict[str, float] = {"memory/teachers": float(self.cpu_bytes())}
        for pair, version in self.version.items():
            keys[f"teacher/{pair}/switch"] = float(self.switch[pair])
            keys[f"teacher/{pair}/version"] = float(-1 if version is None else version)
            keys[f"teacher/{pair}/age"] = float(0 if version is None else update - version)
        return keys

    def snapshots(self) -> set[int]:
        """Versions in use: a checkpoint refers to these."""
        return {version for version in self.version.values() if version is not None}

    def state(self) -> dict[str, Any]:
        return {
            pair: {"best": self.best[pair], "switch": self.switch[pair], "version": self.version[pair]}
            for pair in self.best
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if state.keys() != self.best.keys():
            raise UserError(f"teachers: the checkpoint's pairs {sorted(state)} are not the run's {sorted(self.best)}")
        for pair, values in state.items():
            self.best[pair], self.switch[pair], self.version[pair] = values["best"], values["switch"], values["version"]
        self._on_device.clear()
        self._weights = {
            version: {name: value.to(self.dtype) for name, value in self._load_snapshot(version).items()}
            for version in sorted(self.snapshots())
        }

    def _keep_only(self, versions: set[int]) -> None:
        for held in (self._weights, self._on_device):
            for version in [v for v in held if v not in versions]:
                del held[version]  # type: ignore[attr-defined]

    def _place(self, version: int) -> nn.Module:
        """The teacher's model on the device; the one that rested longest gives up its room."""
        if version in self._on_device:
            self._on_device.move_to_end(version)
            return self._on_device[version]
        model = self._on_device.popitem(last=False)[1] if len(self._on_device) >= ON_DEVICE else self._blank_model()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self._weights[version][name], non_blocking=True)
        self._on_device[version] = model
        return model
