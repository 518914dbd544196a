"""Settings of a study: its rows, and what all of them share."""

from typing import Annotated, Any

from pydantic import AliasChoices, Field, field_validator, model_validator

from mnmt_ds.config import FilePath, Settings

Keys = dict[str, Any]
"""{dotted key of the recipe: value that replaces the recipe's}, as ``a.b=c`` on a command line."""

Seed = Annotated[int, Field(ge=0)]
"""Of a run."""


class LaunchSettings(Settings):
    """Settings of how the processes of each run are started."""

    ranks: int = Field(default=1, ge=1, le=65_536)
    """Processes of a run; several start through the deepspeed launcher, one starts by itself."""
    threads: int = Field(default=1, ge=1, le=4096)
    """CPU threads of each (OMP_NUM_THREADS)."""
    hostfile: FilePath | None = None
    """DeepSpeed's hostfile, for runs over several nodes; ``ranks`` is then processes a node."""


class CapSettings(Settings):
    """Budget of training that all rows share; a row's ``times`` multiplies it."""

    max_epochs: int | None = Field(None, ge=1)
    """Epochs at most; null: the recipe's."""
    max_steps: int | None = Field(None, ge=0)
    """Updates at most; 0: no limit; null: the recipe's."""


class ConditionSettings(Settings):
    """One of the study's ``conditions``, in which every row is run: a corpus, a direction, a dropout."""

    recipe: FilePath | None = None
    """Its base recipe; null: the study's."""
    set: Keys = {}  # noqa: RUF012 (pydantic copies it)
    """Keys of the recipe that it changes."""
    rows: dict[str, Keys] = Field(default_factory=dict)
    """Keys of the recipe that single rows change in this condition, after the row's own: {row: {key: value}}."""
    seeds: tuple[Seed, ...] | None = None
    """The seeds of rows that have none of their own; null: the study's."""
    baseline: str | None = None
    """The row that gains are over; null: the study's."""


class RowSettings(Settings):
    """A row of the tables: one way to train, in every condition and with every seed."""

    recipe: FilePath | None = None
    """Its base recipe, from the study's folder; null: the condition's, else the study's."""
    set: Keys = {}  # noqa: RUF012 (pydantic copies it)
    """Keys of the recipe that it changes. "{run.ROW}" in a value stands for that row's run of the same condition and
    seed (its first seed where it has not this one), which is then made first."""
    seeds: tuple[Seed, ...] | None = None
    """Its seeds; null: the condition's, else the study's."""
    conditions: tuple[str, ...] | None = Field(None, validation_alias=AliasChoices("settings"))
    """The conditions that it is run in; null: all."""
    per_pair: bool = False
    """One model a language pair, each a run of its own; together they are the row (BILINGUAL)."""
    times: float = Field(default=1.0, gt=0, le=10**6)
    """Its budget as a multiple of the study's cap."""
    launch: LaunchSettings | None = None
    """How its runs are started; null: as the study says."""


class StudySettings(Settings):
    """A grid of rows, conditions and seeds over prepared corpora."""

    title: str = "Study"
    """Heading of the report."""
    directory: FilePath = Field(examples=["runs/study"])
    """Where runs and report are written; paths are relative to the working directory."""
    recipe: FilePath | None = None
    """Base recipe of every row, from the study's folder; null: every condition, or every row, names its own."""
    set: Keys = {}  # noqa: RUF012 (pydantic copies it)
    """Keys of the recipe that all rows change; a condition's, then a row's keys come after."""
    seeds: tuple[Seed, ...] = (1,)
    """A run each."""
    cap: CapSettings = CapSettings()
    """The budget of every row."""
    conditions: dict[str, ConditionSettings] = Field(default_factory=dict, validation_alias=AliasChoices("settings"))
    """Corpora, directions or values under which every row is run and compared; empty: the base recipe alone."""
    rows: dict[str, RowSettings] = Field(examples=[{"plain": {}}])
    """The rows, in the order of the tables."""
    baseline: str | None = None
    """The row that gains are over; null: the first."""
    prepare: bool = True
    """Run ``mnmt-ds prepare`` for every condition first (quick where nothing changed)."""
    evaluate: str = ""
    """Options of ``mnmt-ds evaluate``, such as "--tokenizers spm --beam 5"."""
    samples: int = Field(default=1000, ge=1, le=10**6)
    """Resamples of the paired bootstrap."""
    launch: LaunchSettings = LaunchSettings()
    """How runs are started."""
    after: tuple[str, ...] = ()
    """``mnmt-ds`` commands for the end, such as "analyse sensitivity {run.plain} -o {report}/analysis"; "{run.ROW}" is
    the row's first seed in the first condition. One is run where all runs that it names are complete; one that names
    none, where all of the study is."""

    @field_validator("rows", mode="before", json_schema_input_type=dict[str, RowSettings | None])
    @classmethod
    def _no_changes(cls, rows: Any) -> Any:
        """A row that only has a name changes nothing."""
        return {name: row if row is not None else {} for name, row in rows.items()} if isinstance(rows, dict) else rows

    @model_validator(mode="after")
    def _check(self) -> "StudySettings":
        if not self.rows:
            raise ValueError("rows: name at least one")
        for name in [*self.rows, *self.conditions]:
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name[0] in ".-":
                raise ValueError(f"'{name}' is no name for a directory; use letters, digits, '-', '_' and '.'")
        conditions = list(self.conditions.values())
        for base in [self.baseline, *(condition.baseline for condition in conditions)]:
            if base is not None and base not in self.rows:
                raise ValueError(f"baseline: '{base}' is not a row; rows are {', '.join(self.rows)}")
        for name, condition in self.conditions.items():
            if unknown := sorted(condition.rows.keys() - self.rows.keys()):
                row_names = ", ".join(self.rows)
                raise ValueError(f"conditions.{name}.rows: '{unknown[0]}' is not a row; rows are {row_names}")
        seeds = [self.seeds, *(condition.seeds for condition in conditions), *(row.seeds for row in self.rows.values())]
        if () in seeds:
            raise ValueError("seeds: give at least one")
        for name, row in self.rows.items():
            if odd := sorted(set(row.conditions or ()) - set(self.conditions)):
                condition_names = ", ".join(self.conditions) or "none"
                raise ValueError(f"rows.{name}.conditions: {', '.join(odd)} not among the study's ({condition_names})")
        return self

    def keys_of(self, row: str, condition: str) -> Keys:
        """Lists the keys of the recipe that a row changes in a condition.

        Args:
            row: name of the row.
            condition: name of the condition, or "".

        Returns:
            The row's own keys, then those that the condition gives to this row.
        """
        condition_settings = self.conditions.get(condition)
        special = condition_settings.rows.get(row, {}) if condition_settings else {}
        own = {key: value for key, value in self.rows[row].set.items() if key not in special}
        return {**own, **special}

    def with_same_seeds(self) -> "StudySettings":
        """Returns the study with its own seeds in every row, whatever rows and conditions say.

        Returns:
            The changed settings.
        """
        rows = {name: row.model_copy(update={"seeds": None}) for name, row in self.rows.items()}
        conditions = {name: condition.model_copy(update={"seeds": None}) for name, condition in self.conditions.items()}
        return self.model_copy(update={"rows": rows, "conditions": conditions})

    def seeds_of(self, row: str, condition: str) -> tuple[int, ...]:
        """Returns the seeds with which a row is run.

        Args:
            row: name of the row.
            condition: name of the condition, or "".

        Returns:
            The seeds.
        """
        condition_settings = self.conditions.get(condition)
        return self.rows[row].seeds or (condition_settings.seeds if condition_settings else None) or self.seeds
