"""What of a checkpoint goes into a model: every parameter is accounted for, and what is not as it was said to be is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from vla_ops.checkpoints.architecture import differences
from vla_ops.checkpoints.layout import Checkpoint
from vla_ops.checkpoints.reading import ArraySpec, Wanted, read_params, read_specs
from vla_ops.errors import CheckpointError

# The factors of LoRA, which a base checkpoint has not: the model's own initialisation stays.
LORA = r".*lora.*"
# What depends on the robot's dimensions: for another action_dim, or an action head that starts anew.
ACTION_HEAD = r"(action_in_proj|action_out_proj|state_proj)/.*"
_SHOWN = 8
# Matches no path.
_NOTHING = r"(?!)"


@dataclass(frozen=True)
class LoadRules:
    """Regular expressions on whole paths for what need not be loaded; everything else must be there and fit."""

    # Parameters of the model that a checkpoint may lack.
    missing: str | None = LORA
    # Parameters of the model that are not loaded even where the checkpoint has them, in whatever shape.
    anew: str | None = None
    # Arrays of the checkpoint that the model does not have and that are left out.
    extra: str | None = None


@dataclass(frozen=True)
class LoadedArray:
    """A parameter that was loaded, and from which dtype into which."""

    path: str
    shape: tuple[int, ...]
    stored: str
    dtype: str


@dataclass(frozen=True)
class OtherArray:
    """A parameter that stayed as the model initialises it, or an array of the checkpoint that was left out."""

    path: str
    shape: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class LoadReport:
    """What was and what was not loaded, to be kept with the run."""

    source: str
    loaded: tuple[LoadedArray, ...]
    initialised: tuple[OtherArray, ...]
    left_out: tuple[OtherArray, ...]

    @property
    def cast(self) -> tuple[LoadedArray, ...]:
        """Those that were stored in another dtype."""
        return tuple(array for array in self.loaded if array.stored != array.dtype)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self)

    def summary(self) -> str:
        """One line."""
        numbers = f"{len(self.loaded)} arrays loaded ({len(self.cast)} in another dtype), {len(self.initialised)} initialised"
        return f"{self.source}: {numbers}, {len(self.left_out)} left out"

    def table(self) -> str:
        """The summary and a line for each array that was not loaded as it is."""
        rows = [("cast", array.path, array.shape, f"{array.stored} -> {array.dtype}") for array in self.cast]
        rows += [("initialised", array.path, array.shape, array.why) for array in self.initialised]
        rows += [("left out", array.path, array.shape, array.why) for array in self.left_out]
        width = max((len(path) for _, path, _, _ in rows), default=0)
        return "\n".join([self.summary(), *(f"  {kind:<11}  {path:<{width}}  {shape!s:<20}  {why}" for kind, path, shape, why in rows)])


class Source(Protocol):
    """Where parameters come from: their specs without reading them, and those asked for."""

    @property
    def name(self) -> str:
        """Its place, for messages and the report."""
        ...

    @property
    def specs(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of each parameter by path."""
        ...

    def read(self, wanted: Mapping[str, Wanted]) -> dict[str, Any]:
        """Read these parameters, each with its own dtype and sharding."""
        ...


@dataclass(frozen=True)
class CheckpointSource:
    """Parameters of a checkpoint in openpi's layout. `name` is its folder, or what the folder is a copy of."""

    checkpoint: Checkpoint
    check: bool = True
    name: str = ""
    specs: Mapping[str, ArraySpec] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "specs", read_specs(self.checkpoint))
        object.__setattr__(self, "name", self.name or str(self.checkpoint))

    def read(self, wanted: Mapping[str, Wanted]) -> dict[str, Any]:
        """Read these parameters, each with its own dtype and sharding."""
        return read_params(self.checkpoint, paths=wanted, check=self.check)


def load_into(expected: Mapping[str, Any], source: Source, *, rules: LoadRules | None = None) -> tuple[dict[str, Any], LoadReport]:
    """Load what `expected` (`{path: anything with shape and dtype, and a sharding for sharded ones}`) has of a source.

    Arrays come in the expected dtype (a frozen parameter is expected in bfloat16) and only those that the source has; the others are
    in the report and are the model's to initialise. Raise CheckpointError, before anything is read, listing all that does not fit.
    """
    report = plan_load(expected, source.specs, source=source.name, rules=rules)
    wanted = {array.path: Wanted(array.dtype, getattr(expected[array.path], "sharding", None)) for array in report.loaded}
    return source.read(wanted), report


def plan_load(expected: Mapping[str, Any], found: Mapping[str, Any], *, source: str, rules: LoadRules | None = None) -> LoadReport:
    """The report of a load, from shapes alone. Raise CheckpointError listing all that does not fit."""
    rules = rules or LoadRules()
    may_lack, anew, extra = (_matching(pattern) for pattern in (rules.missing, rules.anew, rules.extra))
    want = {path: ArraySpec.of(leaf) for path, leaf in expected.items()}
    have = {path: ArraySpec.of(leaf) for path, leaf in found.items()}
    loaded, initialised, wrong = [], [], []
    for path, spec in want.items():
        stored = have.get(path)
        if anew(path):
            initialised.append(OtherArray(path, spec.shape, f"named by anew: {rules.anew}"))
        elif stored is None and may_lack(path):
            initialised.append(OtherArray(path, spec.shape, f"not in the checkpoint; named by missing: {rules.missing}"))
        elif stored is None:
            wrong.append(f"{path}: {spec} in the model, not in the checkpoint")
        elif stored.shape != spec.shape or not _may_cast(stored.dtype, spec.dtype):
            wrong.append(f"{path}: {stored} in the checkpoint, {spec} in the model")
        else:
            loaded.append(LoadedArray(path, spec.shape, stored.dtype, spec.dtype))
    left_out = [OtherArray(path, spec.shape, f"not in the model; named by extra: {rules.extra}") for path, spec in _more(have, want, extra)]
    wrong += [f"{path}: {spec} in the checkpoint, not in the model" for path, spec in _more(have, want, lambda path: not extra(path))]
    if wrong:
        raise _mismatch(source, wrong, expected, found)
    return LoadReport(source, tuple(loaded), tuple(initialised), tuple(left_out))


def _more(have: Mapping[str, ArraySpec], want: Mapping[str, ArraySpec], which: Callable[[str], bool]) -> list[tuple[str, ArraySpec]]:
    return [(path, spec) for path, spec in have.items() if path not in want and which(path)]


def _matching(pattern: str | None) -> Callable[[str], bool]:
    try:
        compiled = re.compile(_NOTHING if pattern is None else pattern)
    except re.error as error:
        todo = "Patterns match whole paths: `.*lora.*`."
        raise CheckpointError(f"not a regular expression: {error}", found=pattern, todo=todo) from error
    return lambda path: compiled.fullmatch(path) is not None


def _may_cast(stored: str, expected: str) -> bool:
    return stored == expected or (_is_float(stored) and _is_float(expected))


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat"))


def _mismatch(source: str, wrong: list[str], expected: Mapping[str, Any], found: Mapping[str, Any]) -> CheckpointError:
    shown = "; ".join(wrong[:_SHOWN]) + (f"; {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
    todo = differences(expected, found)
    return CheckpointError(
        "the checkpoint does not fit the model",
        file=source,
        array=wrong[0].partition(":")[0],
        found=shown,
        todo=(f"{todo[0].upper()}{todo[1:]}. " if todo else "")
        + "Set the model to what the checkpoint is, or name what may differ: `missing` and `anew` are initialised, `extra` is left out.",
    )
