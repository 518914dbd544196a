"""Where a run's figures go: ``metrics.jsonl`` always, dashboards where configured, one line a report on standard error.

Only the main rank writes. A record is flat: ``kind``, ``update``, ``epoch``, ``time`` and metric keys such as
``valid/bs-en/nll``.
"""

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from mnmt_ds import metric_keys
from mnmt_ds.config import Settings
from mnmt_ds.dashboards import Dashboard, Tensorboard, Wandb
from mnmt_ds.errors import UserError, file_fault
from mnmt_ds.files import append_line, write_text
from mnmt_ds.log import REPORT
from mnmt_ds.packed_records import pack
from mnmt_ds.record_lines import Record, kept_lines, last_crc, read_records, seal
from mnmt_ds.run_files import METRICS

__all__ = ["Record", "Tracker", "TrackingSettings", "progress_line", "read_records"]
LOG = logging.getLogger(__name__)


class TrackingSettings(Settings):
    """Settings of the dashboards that metrics go to besides ``metrics.jsonl``."""

    wandb: Literal["off", "offline", "online"] = "off"
    """off: JSONL alone; offline: wandb files in the run directory (``wandb sync`` later); online: live."""
    project: str = "mnmt_ds"
    """wandb project."""
    entity: str = ""
    """wandb entity (user or team); empty: your default."""
    group: str = ""
    """wandb group, such as a study's name."""
    wandb_runs: Literal["run", "students"] = "run"
    """Of several students. run: one wandb run, whose figures have the students' names before them; students: one each,
    with the figures and names of a run that has one student, in ``group`` (empty: the run's name)."""
    wandb_pairs: tuple[str, ...] = ()
    """Pairs whose figures dashboards get each by themselves where there are 200 pairs or more; of all others they get
    means and histograms."""
    tensorboard: bool = False
    """Event files in the run's ``tensorboard`` directory, for ``tensorboard --logdir`` (``mnmt_ds[tensorboard]``)."""
    log_every: int = Field(50, ge=1)
    """Updates between two reports; a large number: none."""


def run_and_student_settings(
    settings: TrackingSettings, run: str, several: bool = True
) -> tuple[TrackingSettings, TrackingSettings]:
    """Decides which dashboards of a run with several students are whose.

    Args:
        settings: the recipe's ``tracking`` section.
        run: the run's name.
        several: whether it has several students.

    Returns:
        The settings of the run's own log, and those of each student's.
    """
    without_wandb = settings.model_copy(update={"wandb": "off"})
    if settings.wandb_runs == "run" or not several:
        return settings, without_wandb
    return without_wandb, settings.model_copy(update={"group": settings.group or run})


class Tracker:
    """Appends records to a run's ``metrics.jsonl`` and mirrors them to dashboards; on other ranks it does nothing.

    A dashboard that fails to start or to log costs a warning, never the run.

    Args:
        run: the run's directory.
        settings: the recipe's ``tracking`` section.
        main: whether this is the main rank.
        name: the run's name on dashboards.
    """

    def __init__(self, run: Path, settings: TrackingSettings, main: bool, name: str) -> None:
        self.path = run / METRICS
        self.main = main
        self._crc: int | None = None
        """``crc`` of the last line of the log; None: not yet looked up."""
        self.records = 0
        """Records in the log, those of kind "run" left out; 0 on other ranks."""
        self.fault: UserError | None = None
        """Why the log could not be written; whoever writes it with other ranks raises it on all of them."""
        self.dashboards: list[Dashboard] = []
        self._settings, self._name = settings, name

    def rewind(self, update: int, records: int | None = None) -> None:
        """Drops what a killed run wrote after the checkpoint that training resumes from, and damaged lines by name.

        Args:
            update: the checkpoint's update; -1: all records are dropped.
            records: those of the log when the checkpoint was written; None: all up to that update.
        """
        if not self.main or not self.path.exists():
            return
        kept_log = kept_lines(self.path, update, records)
        self.records, self._crc = kept_log.records, kept_log.crc
        for fault in kept_log.faults:
            self.warning(f"{fault}; the line is left out")
        if kept_log.text.encode() != self.path.read_bytes():
            with self._faults_kept():
                write_text(self.path, kept_log.text)

    def log(self, kind: str, update: int, epoch: float, values: Record) -> None:
        """Appends a record, on the main rank alone.

        Args:
            kind: what it is about, such as ``train`` or ``valid``.
            update: number of the update that it follows.
            epoch: epochs so far.
            values: figures by metric key.
        """
        if not self.main or self.fault is not None:
            return
        record = {"kind": kind, "update": update, "epoch": round(epoch, 4), "time": time.time(), **values}
        with self._faults_kept():
            line = seal(json.dumps(pack(record)).encode(), last_crc(self.path) if self._crc is None else self._crc)
            append_line(self.path, line.text.decode())
            self.records += kind != "run"
            self._crc = line.crc
        for dashboard in list(self.dashboards):
            try:
                dashboard.log(self.records + (kind == "run"), update, epoch, values)
            except Exception as error:  # whatever a dashboard raises must not end the training
                self.warning(f"{dashboard.name}: {_one_line(error)}; going on without it")
                self.dashboards.remove(dashboard)

    @contextlib.contextmanager
    def _faults_kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.fault = file_fault(error, self.path)
            if self.fault is None:
                raise

    def report(self, line: str) -> None:
        """Shows a training report, on the main rank alone.

        Args:
            line: such as ``progress_line`` makes.
        """
        if self.main:
            REPORT.info(line)

    def info(self, line: str) -> None:
        """Logs a message, on the main rank alone.

        Args:
            line: the message.
        """
        if self.main:
            LOG.info(line)

    def warning(self, line: str) -> None:
        """Logs a warning, on the main rank alone.

        Args:
            line: the message.
        """
        if self.main:
            LOG.warning(line)

    def close(self) -> None:
        """Closes the dashboards."""
        for dashboard in self.dashboards:
            try:
                dashboard.close()
            except Exception as error:  # the training has ended well; its dashboard must not spoil that
                self.warning(f"{dashboard.name}: {_one_line(error)}")

    def start_dashboards(self, config: Record, update: int) -> None:
        """Starts the dashboards that the settings ask for, on the main rank alone.

        Args:
            config: the recipe's values, versions and sizes.
            update: from which training goes on.
        """
        settings, run = self._settings, self.path.parent
        name, pairs = self._name, self._settings.wandb_pairs
        starts: dict[str, Callable[[], Dashboard]] = {}
        if (mode := settings.wandb) != "off":
            where = {"project": settings.project, "entity": settings.entity or None, "group": settings.group or None}
            starts["wandb"] = lambda: Wandb(run, mode, config, pairs, {"name": name, **where})
        if settings.tensorboard:
            starts["tensorboard"] = lambda: Tensorboard(run, config, pairs, update)
        for label, start in starts.items() if self.main else ():
            try:
                self.dashboards.append(start())
            except Exception as error:  # a dashboard that cannot be reached is no reason to stop
                self.warning(f"{label}: {_one_line(error)}; going on without it (metrics.jsonl has everything)")


def _one_line(error: Exception) -> str:
    return str(file_fault(error) or " ".join(str(error).split()))


def progress_line(update: int, last: int, epoch: float, values: Record, memory_gb: float, seconds: float) -> str:
    """Formats a training report: ``step 1200/20000 | epoch 3.20 | loss 4.123 nll 3.456 ppl 10.97 | lr 3.0e-4 | ...``.

    What is left is estimated at the pace so far, validations included; patience may end the run earlier.

    Args:
        update: number of the last update.
        last: number of the run's last update; 0: not known.
        epoch: epochs so far.
        values: the report's figures by metric key.
        memory_gb: most memory in use so far, in GB (1e9 bytes).
        seconds: of training so far.

    Returns:
        The line.
    """
    shown = [
        f"loss {values[metric_keys.TRAIN_LOSS]:.3f}",
        f"nll {values[metric_keys.TRAIN_NLL]:.3f}",
        f"ppl {values[metric_keys.TRAIN_PPL]:.2f}",
    ]
    shown += [
        f"{name} {value:.3f}"
        for key, value in values.items()
        if (name := metric_keys.TRAIN_TERM_LOSS.name_in(key)) and name not in ("nll", "ce")
    ]
    speed = values[metric_keys.TOKENS_PER_SEC]
    left = f", at most {clock(seconds / update * (last - update))} left" if last > update > 0 else ""
    cells = [
        f"step {update}/{last}" if last else f"step {update}",
        f"epoch {epoch:.2f}",
        " ".join(shown),
        f"lr {values[metric_keys.TRAIN_LR]:.2e}",
        *([f"gnorm {values[metric_keys.TRAIN_GNORM]:.2f}"] if values.get(metric_keys.TRAIN_GNORM) is not None else []),
        f"{speed / 1000:.1f}k tok/s" if speed >= 1000 else f"{speed:.0f} tok/s",
        f"{'gpu' if values.get(metric_keys.MEMORY_GPU) else 'cpu'} {memory_gb:.1f} GB",
        f"{clock(seconds)}{left}",
    ]
    return " | ".join(cells)


def clock(seconds: float) -> str:
    """Formats a length of time.

    Args:
        seconds: the time.

    Returns:
        Hours, minutes and seconds, such as ``1:02:03``; days before them where there are any.
    """
    return str(datetime.timedelta(seconds=round(seconds)))
