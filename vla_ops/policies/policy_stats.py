"""The norm stats a policy works with: those of this project, which say what they were made from, and openpi's, which say nothing.

openpi takes any file that is there: it slices wider statistics and fills up narrower ones, so that another robot's, another action
space's or another horizon's pass in silence (openpi #773, #580). Here a file without provenance is used only where `norm_stats: {from:
...}` asks for it by name. What was then accepted, and for which robot, stands in `norm_stats.accepted.json` beside the copy of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from vla_ops.embodiment import Embodiment
from vla_ops.errors import FetchError, StatsMismatchError, VlaOpsError
from vla_ops.fetching.remote import folders_in, read_text
from vla_ops.files import replacing
from vla_ops.home import home
from vla_ops.norm_stats import STATS_FILE, Provenance, check_provenance, read_norm_stats
from vla_ops.norm_stats.stats import META_FILE
from vla_ops.policies.normalize import Numbers
from vla_ops.published.pull import PULLED_ASSETS, bring
from vla_ops.robot import Dimension
from vla_ops.spec import StatsFrom

# Where a copy is taken because the place is away, nobody else says so.
_logger = logging.getLogger("vla_ops.norm_stats")
ACCEPTED_FILE = "norm_stats.accepted.json"
_NAMES = ("mean", "std", "q01", "q99")
type Vector = Literal["state", "actions"]


@dataclass(frozen=True, eq=False)
class PolicyStats:
    """The numbers, as wide as a robot's vectors, and what is known of them."""

    state: Numbers
    actions: Numbers
    # File or URI they were read from.
    origin: str
    # None: an openpi file of which nobody has said what it is for.
    provenance: Provenance | None
    # True where the numbers were measured on something else than the provenance speaks of, and a person has asked for them.
    accepted: bool = False
    # The texts to write beside a checkpoint, by file name.
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Changes with any number and with the provenance."""
        return _hash([self.state.as_json(), self.actions.as_json(), None if self.provenance is None else asdict(self.provenance)])


def read_stats(place: str | Path) -> PolicyStats:
    """Read norm_stats.json, or the folder it is in, and what stands beside it; local or a URI.

    Raise FetchError if it is not there, StatsMismatchError where its numbers cannot be statistics or were edited.
    """
    folder = str(place).rstrip("/").removesuffix(f"/{STATS_FILE}")
    texts = {name: read_text(f"{folder}/{name}") for name in (STATS_FILE, META_FILE, ACCEPTED_FILE)}
    files = {name: text for name, text in texts.items() if text is not None}
    if STATS_FILE not in files:
        raise FetchError(
            "no norm stats here", file=folder, expected=STATS_FILE, todo="Give the folder of norm_stats.json, or compute them."
        )
    try:
        found = json.loads(files[STATS_FILE])["norm_stats"]
        numbers = {vector: _numbers(found[vector], vector, file=folder) for vector in ("state", "actions")}
        provenance, accepted = _provenance(files, found)
    except VlaOpsError as error:
        error.where["file"] = folder
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StatsMismatchError("not a file of norm stats", file=folder, found=repr(error), todo="Compute them again.") from error
    return PolicyStats(numbers["state"], numbers["actions"], folder, provenance, accepted, files)


def take_stats(asked: StatsFrom, spec: Embodiment, *, robot: str) -> PolicyStats:
    """The norm stats that `norm_stats: {from: ...}` asks for, for this robot.

    Raise FetchError if they are not there; StatsMismatchError if they say that they are for another robot or other vectors, or if
    their width does not fit and `dims` does not say which are meant.
    """
    published = bring(asked.origin, home() / PULLED_ASSETS, only=lambda name: name.startswith("assets/"), say=_logger.warning)
    base = asked.origin.rstrip("/") if published is None else str(published[1])
    found = read_stats(_find(asked, base))
    if published is not None:
        # The copy says nothing to a person, and on another machine nothing at all.
        found = replace(found, origin=found.origin.replace(base, published[0].name, 1))
    made = Provenance.of(spec, robot=robot, dataset_version=f"from {_hash(found.files[STATS_FILE])}")
    if found.provenance is not None:
        if asked.dims is not None or asked.action_dims is not None:
            todo = "Leave `dims` out: their names say which they are."
            raise StatsMismatchError("norm stats that name their dimensions need no `dims`", robot=robot, file=found.origin, todo=todo)
        _check_made(found, found.provenance, spec, robot=asked.robot or robot)
        return found if found.provenance.robot == robot else _accepted(found, replace(found.provenance, robot=robot))
    state = _picked(found, "state", asked.dims, made.state_dims, robot=robot)
    action_dims = asked.dims if asked.action_dims is None else asked.action_dims
    actions = _picked(found, "actions", action_dims, made.action_dims, robot=robot)
    return _accepted(replace(found, state=state, actions=actions), made)


def check_stats(stats: PolicyStats, spec: Embodiment, *, robot: str, horizon: int, dataset_version: str | None = None) -> None:
    """Raise StatsMismatchError unless `stats` are for this robot, its spec, and a model of this horizon.

    The dataset is compared where its version is given: stats of one dataset may rightly be used with another of the same robot.
    """
    if stats.provenance is None:
        raise StatsMismatchError(
            "the norm stats do not say what they were made from",
            robot=robot,
            file=stats.origin,
            found=f"{STATS_FILE} alone, {stats.state.width} state and {stats.actions.width} action dimensions",
            expected=f"{META_FILE} beside it",
            todo="Compute them here, or ask for these by `norm_stats: {from: CHECKPOINT, asset_id: NAME}`.",
        )
    _check_made(stats, stats.provenance, spec, robot=robot, dataset_version=dataset_version)
    if horizon != spec.norm_stats.action_horizon:
        raise StatsMismatchError(
            "the norm stats are of chunks of another length than the model's",
            robot=robot,
            file=stats.origin,
            found=f"horizon {spec.norm_stats.action_horizon}",
            expected=f"action_horizon {horizon}, as the model has it",
            todo="Set norm_stats.action_horizon in the robot's YAML to the model's and compute the norm stats again.",
        )


def write_stats(folder: Path, stats: PolicyStats) -> Path:
    """Write `stats` into `folder` (a checkpoint's `assets/<asset id>`) with what says what they are; return the path of norm_stats.json.

    `read_stats` gives the same back. openpi reads norm_stats.json and lets the rest lie.
    """
    for name, text in stats.files.items():
        with replacing(folder / name) as work:
            work.write_text(text, encoding="utf-8")
    return folder / STATS_FILE


def _check_made(stats: PolicyStats, made: Provenance, spec: Embodiment, *, robot: str, dataset_version: str | None = None) -> None:
    """Raise StatsMismatchError with the robot, the file and the first dimension that differs."""
    # An accepted file has no dataset.
    version = None if stats.accepted else dataset_version
    try:
        check_provenance(made, spec, robot=robot, dataset_version=version)
        _check_widths(stats, made)
    except StatsMismatchError as error:
        wanted = Provenance.of(spec, robot=robot, dataset_version="")
        raise error.at(robot=robot, file=stats.origin, dimension=_first_other(made, wanted)) from None


def _check_widths(stats: PolicyStats, made: Provenance) -> None:
    for vector, numbers, dims in (("state", stats.state, made.state_dims), ("actions", stats.actions, made.action_dims)):
        if numbers.width != len(dims):
            raise StatsMismatchError(
                f"{STATS_FILE} and what stands beside it differ in the width of {vector}",
                found=f"{numbers.width} numbers",
                expected=f"{len(dims)}: {', '.join(dim.name for dim in dims)}",
                todo="One of the two was copied from elsewhere: take both from where they came from.",
            )


def _first_other(there: Provenance, here: Provenance) -> str | None:
    """The name, here, of the first dimension that is not the same."""
    for vector, theirs, ours in (("state", there.state_dims, here.state_dims), ("action", there.action_dims, here.action_dims)):
        for k, dim in enumerate(ours):
            if k >= len(theirs) or theirs[k] != dim:
                return f"{vector} {k}, {dim.name} in {dim.unit}"
    return None


def _accepted(stats: PolicyStats, made: Provenance) -> PolicyStats:
    numbers = {"state": stats.state.as_json(), "actions": stats.actions.as_json()}
    about = {"from": stats.origin, "numbers": _hash(numbers), "provenance": asdict(made)}
    files = {STATS_FILE: {"norm_stats": numbers}, ACCEPTED_FILE: about}
    texts = {name: json.dumps(value, indent=2, allow_nan=False) + "\n" for name, value in files.items()}
    return replace(stats, provenance=made, accepted=True, files=texts)


def _provenance(files: Mapping[str, str], found: Any) -> tuple[Provenance | None, bool]:
    """What stands beside the numbers, and whether it is a person's word."""
    if META_FILE in files:
        with TemporaryDirectory() as folder:
            for name in (STATS_FILE, META_FILE):
                Path(folder, name).write_text(files[name], encoding="utf-8")
            # Also proves that the numbers are those the provenance speaks of.
            return read_norm_stats(Path(folder)).provenance, False
    if ACCEPTED_FILE not in files:
        return None, False
    about = json.loads(files[ACCEPTED_FILE])
    if about["numbers"] != _hash(found):
        raise StatsMismatchError(
            f"the numbers in {STATS_FILE} are not those that {ACCEPTED_FILE} tells of",
            todo="One of the two was edited or copied from elsewhere: take the numbers from where they came from.",
        )
    return _from_json(about["provenance"]), True


def _from_json(made: Mapping[str, Any]) -> Provenance:
    dims = {key: tuple(Dimension(**dim) for dim in made[key]) for key in ("state_dims", "action_dims")}
    return Provenance(**{**made, **dims, "delta_mask": tuple(made["delta_mask"])})


def _numbers(found: Mapping[str, Any], vector: str, *, file: str) -> Numbers:
    """Raise StatsMismatchError, naming vector and place, for numbers that cannot be statistics."""
    columns = {name: np.array(found[name], np.float64) for name in _NAMES if found.get(name) is not None}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) != 1 or columns["mean"].ndim != 1 or ("q01" in columns) != ("q99" in columns):
        raise StatsMismatchError(f"the numbers of {vector} are not of one width", file=file, found=shapes, expected="(d,) each")
    numbers = Numbers(columns["mean"], columns["std"], columns.get("q01"), columns.get("q99"))
    wrong = ~np.isfinite(list(columns.values())).all(axis=0) | (numbers.std < 0)
    if numbers.q01 is not None and numbers.q99 is not None:
        wrong |= numbers.q99 < numbers.q01
    if wrong.any():
        k = int(np.argmax(wrong))
        found_there = {name: float(column[k]) for name, column in columns.items()}
        raise StatsMismatchError(
            "no statistics: not finite, a negative std, or q99 below q01", file=file, dimension=f"{vector} {k}", found=found_there
        )
    return numbers


def _picked(found: PolicyStats, vector: Vector, asked: Sequence[int] | None, dims: Sequence[Dimension], *, robot: str) -> Numbers:
    """The robot's dimensions of the file's. Raise StatsMismatchError, naming them, where these are not as many and nobody said which."""
    numbers: Numbers = getattr(found, vector)
    names = [dim.name for dim in dims]
    where = {"robot": robot, "file": found.origin}
    if asked is None:
        if numbers.width == len(dims) or (numbers.width > len(dims) and _is_padding(numbers, len(dims))):
            return numbers.take(range(len(dims)))
        todo = f"Say which of them the robot's are, in its order: dims: {list(range(min(len(dims), numbers.width)))}."
        found_expected = {"found": f"{numbers.width} dimensions in the file", "expected": f"{len(dims)}: {', '.join(names)}"}
        raise StatsMismatchError(f"the norm stats are not as wide as the robot's {vector}", **where, **found_expected, todo=todo)
    if len(asked) != len(dims) or len(set(asked)) != len(asked):
        expected = f"{len(dims)} different ones: {', '.join(names)}"
        raise StatsMismatchError(f"`dims` do not fit the robot's {vector}", **where, found=list(asked), expected=expected)
    for k, name in zip(asked, names, strict=True):
        if not 0 <= k < numbers.width:
            expected = f"0 .. {numbers.width - 1}"
            raise StatsMismatchError(
                f"`dims` leave the file's {vector}", **where, dimension=name, found=k, expected=expected, todo="Correct dims."
            )
    return numbers.take(asked)


def _is_padding(numbers: Numbers, width: int) -> bool:
    """Whether all from `width` on is what openpi fills statistics up with: nothing is lost with it."""
    rest = numbers.take(range(width, numbers.width))
    zeros = [values for values in (rest.mean, rest.q01, rest.q99) if values is not None]
    return all((values == 0).all() for values in zeros) and bool(np.isin(rest.std, (0.0, 1.0)).all())


def _find(asked: StatsFrom, base: str) -> str:
    """The folder of the asset: the checkpoint's, or that of the checkpoint whose `params` were given, or below the assets themselves."""
    roots = [f"{base}/assets", f"{base.rpartition('/')[0]}/assets", base]
    for root in roots:
        if read_text(f"{root}/{asked.asset_id}/{STATS_FILE}") is not None:
            return f"{root}/{asked.asset_id}"
    there = next((names for root in roots if (names := folders_in(root))), [])
    raise FetchError(
        "the checkpoint has no norm stats of this name",
        file=base,
        found=f"assets {', '.join(there)}" if there else "no assets",
        expected=f"assets/{asked.asset_id}/{STATS_FILE}",
        todo="Correct `asset_id`, or `from`.",
    )


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
