"""Everything that would stop or spoil a training, in one table before a GPU is touched: shapes and files only, no array is made.

::

    report = preflight(recipe, run, home=home)
    print(report.render())
    report.refuse()                     # TrainingError with every error; warnings pass
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vla_ops.errors import TrainingError, VlaOpsError
from vla_ops.training import preflight_checks as checks
from vla_ops.training.memory_estimate import MemoryEstimate, device_bytes
from vla_ops.training.preflight_given import Given, Row
from vla_ops.training.recipe import Recipe

COLUMNS = ("check", "found", "verdict")


@dataclass(frozen=True)
class Preflight:
    """The table; a row is one fact or one problem."""

    title: str
    rows: tuple[Row, ...]
    memory: MemoryEstimate | None

    @property
    def errors(self) -> tuple[Row, ...]:
        """What would stop the training or make its result worthless."""
        return tuple(row for row in self.rows if row.verdict == "error")

    @property
    def warnings(self) -> tuple[Row, ...]:
        """What may be meant."""
        return tuple(row for row in self.rows if row.verdict == "warning")

    def render(self) -> str:
        """The rows as an aligned text table, and each problem in a sentence below it."""
        cells = [COLUMNS, *((row.check, row.found, row.verdict) for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
        problems = [f"{row.verdict.upper()} {row.check}: {row.said}" for row in (*self.errors, *self.warnings)]
        count = f"{len(self.errors)} errors, {len(self.warnings)} warnings"
        return "\n".join([f"{self.title}: {count}", *lines, *([""] if problems else []), *problems])

    def refuse(self) -> None:
        """Raise TrainingError with every error, unless there is none."""
        if self.errors:
            raise TrainingError(
                f"the training is not started: {len(self.errors)} problem{'s' if len(self.errors) > 1 else ''}",
                found="; ".join(f"{row.check}: {row.said}" for row in self.errors),
            )


def preflight(
    recipe: Recipe,
    run: Path,
    *,
    home: Path,
    devices: int | None = None,
    available: int | None = None,
    resumes: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Preflight:
    """Check a recipe on `devices` with `available` bytes for JAX on each; without them JAX is asked what there is.

    `run` is where the checkpoints will be. `resumes` leaves out what only matters at the start. A remote `init` is fetched into `home`,
    and a tokenizer is, as the training would.
    """
    device = "devices given"
    if devices is None or available is None:
        import jax

        found, device = device_bytes()
        devices, available = devices or jax.device_count(), available or found
    given = Given(recipe, Path(run), Path(home), devices, available, device, resumes, say)
    rows = list(_all(given))
    return Preflight(f"{recipe.robot}/{recipe.name}", tuple(rows), given.memory)


def _all(given: Given) -> Iterator[Row]:
    parts: tuple[tuple[str, Callable[[Given], Iterator[Row]]], ...] = (
        ("model", checks.model),
        ("memory", checks.memory),
        ("init", checks.init),
        ("tokenizer", checks.tokenizer),
        ("dimensions", checks.dimensions),
        ("cameras", checks.cameras),
        ("dataset", checks.dataset),
        ("prompts", checks.prompts),
        ("norm stats", checks.norm_stats),
        ("devices", checks.batch),
        ("steps", checks.steps),
        ("validation", checks.validation),
        ("disk", checks.disk),
        ("W&B", checks.wandb),
    )
    said: dict[str, str] = {}
    for name, check in parts:
        try:
            yield from check(given)
        except VlaOpsError as error:
            # Several checks need the dataset, and each fails where it cannot be read.
            first = said.setdefault(str(error), name)
            yield Row(name, error.what, "error", str(error)) if first == name else Row(name, f"see {first}", "not checked")
