"""Dashboards that a run's figures are mirrored to: wandb and TensorBoard. What fails there never ends a run."""

import secrets
from pathlib import Path
from typing import Any, Literal, Protocol

from mnmt_ds.packed_records import packable

Figures = dict[str, Any]
"""Figures by metric key."""


class Dashboard(Protocol):
    """A place that figures are mirrored to; any method may raise."""

    name: str
    """Its name in warnings."""

    def log(self, number: int, update: int, epoch: float, values: Figures) -> None:
        """Adds a record.

        Args:
            number: of the record in the run's log, the same after a resume.
            update: number of the update that it follows.
            epoch: epochs so far.
            values: figures by metric key.
        """
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


class Wandb:
    """A run of wandb, which a resumed training goes on with; its step axis is the update."""

    name = "wandb"

    def __init__(
        self, run: Path, mode: Literal["offline", "online"], config: Figures, pairs: tuple[str, ...], where: Figures
    ) -> None:
        """Starts the run, or goes on with it.

        Args:
            run: the training's directory, which holds the run's id.
            mode: offline: files alone; online: live.
            config: the recipe's values, versions and sizes.
            pairs: that have figures of their own where there are very many pairs.
            where: wandb's project, entity, group and name.
        """
        import wandb

        identity = run / "wandb_id"
        if not identity.exists():
            identity.write_text(secrets.token_hex(4), encoding="utf-8")
        self._pairs, self._is_offline = pairs, mode == "offline"
        self._run = wandb.init(
            **where, dir=str(run), config=config, mode=mode, id=identity.read_text(encoding="utf-8"), resume="allow",
            reinit="create_new", settings=wandb.Settings(silent=True, init_timeout=60),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="update")

    def log(self, number: int, update: int, epoch: float, values: Figures) -> None:
        """Adds a record; of very many pairs a histogram a figure.

        Args:
            number: of the record in the run's log, the same after a resume.
            update: number of the update that it follows.
            epoch: epochs so far.
            values: figures by metric key.
        """
        import wandb

        numbers, rows = split_pairs(values, self._pairs)
        numbers |= {key: wandb.Histogram(row) for key, row in rows.items()}
        # offline, a resumed run would count its steps from 0 again, and lie over what it logged before
        self._run.log({**numbers, "update": update, "epoch": epoch}, step=number if self._is_offline else None)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class Tensorboard:
    """TensorBoard's event files in the run's ``tensorboard`` directory; a resumed training hides what it does again."""

    name = "tensorboard"

    def __init__(self, run: Path, config: Figures, pairs: tuple[str, ...], update: int) -> None:
        """Opens a new event file.

        Args:
            run: the training's directory.
            config: the recipe's values, versions and sizes, shown as text.
            pairs: that have figures of their own where there are very many pairs.
            update: from which training goes on; later figures of a killed run are hidden.
        """
        import yaml
        from torch.utils.tensorboard import SummaryWriter

        self._pairs = pairs
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=update + 1 if update else None)
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self._writer.add_text("config", f"```yaml\n{text}```", update)

    def log(self, number: int, update: int, epoch: float, values: Figures) -> None:
        """Adds a record; of very many pairs a histogram a figure.

        Args:
            number: of the record in the run's log, the same after a resume.
            update: number of the update that it follows.
            epoch: epochs so far.
            values: figures by metric key.
        """
        import numpy as np

        numbers, rows = split_pairs(values, self._pairs)
        for key, value in {**numbers, "epoch": epoch}.items():
            self._writer.add_scalar(key, value, update)
        for key, row in rows.items():
            self._writer.add_histogram(key, np.asarray(row)[np.isfinite(row)], update)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


def split_pairs(values: Figures, pairs: tuple[str, ...]) -> tuple[Figures, dict[str, Any]]:
    """Takes the figures of very many pairs together.

    Args:
        values: figures by metric key.
        pairs: whose figures stay by themselves.

    Returns:
        Numbers by key; and of very many pairs the pairs' values of each figure, by ``<figure>/pairs/<name>``.
    """
    names, figures = packable(values)
    inside = {f"{before}/{name}/{after}" for before, after in figures for name in names if name not in pairs}
    numbers = {k: value for k, value in values.items() if isinstance(value, int | float) and k not in inside}
    return numbers, {f"{before}/pairs/{after}": row for (before, after), row in figures.items()}
