"""Read `robots/<name>/defs.yaml` of a mixture, and the robots it is made of, with the file and line of every mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_ops.defs_file import DEFS, component_of, nearest, read_defs
from vla_ops.errors import SpecError
from vla_ops.mixture import MixtureSpec, SourceSpec
from vla_ops.mixture_schema import Placement, Problem, Schema, resolve
from vla_ops.robot_file import COMPONENT_TYPE as ROBOT
from vla_ops.robot_file import Robot, load_robot
from vla_ops.yaml_file import Loc, Mistake, YamlFile

COMPONENT_TYPE = "vla_ops.Mixture"


@dataclass(frozen=True)
class Source:
    """A robot in a mixture."""

    spec: SourceSpec
    robot: Robot
    placement: Placement

    @property
    def name(self) -> str:
        """Its name in the mixture."""
        return self.spec.called


@dataclass(frozen=True)
class Mixture:
    """A mixture's name (its folder's), its spec, its sources in order and the one schema that they have."""

    name: str
    folder: Path
    spec: MixtureSpec
    sources: tuple[Source, ...]
    schema: Schema
    file: YamlFile

    def place(self, loc: Loc) -> str:
        """`<path>/defs.yaml:<line>` of a key below `attributes`."""
        return f"{self.file.path}:{self.file.line(('attributes', *loc))}"


def load_mixture(folder: str | Path) -> Mixture:
    """Load the mixture in `folder`. Raise SpecError naming file and line of every mistake, and the nearest valid name."""
    folder = Path(folder).resolve()
    file, spec = read_defs(folder, MixtureSpec, component=COMPONENT_TYPE, what="mixture", example="docs/mixtures.md")
    _refuse(file, [*_unknown(spec, folder.parent), *_weights(spec), *_twice(spec)])
    robots = [_robot(file, k, folder.parent / source.robot) for k, source in enumerate(spec.sources)]
    resolved = resolve(spec, [robot.spec for robot in robots])
    _refuse(file, resolved.problems)
    sources = map(Source, spec.sources, robots, resolved.placements)
    return Mixture(folder.name, folder, spec, tuple(sources), resolved.schema, file)


def _refuse(file: YamlFile, problems: Sequence[Problem]) -> None:
    if problems:
        raise file.mistaken(
            [Mistake(file.line(("attributes", *p.loc)), f"{'.'.join(map(str, p.loc))}: {p.said}") for p in problems],
        )


def _robot(file: YamlFile, k: int, folder: Path) -> Robot:
    try:
        return load_robot(folder)
    except SpecError as error:
        error.what = f"{file.path}:{file.line(('attributes', 'sources', k, 'robot'))}: a source cannot be loaded: {error.what}"
        raise


def _unknown(spec: MixtureSpec, robots: Path) -> Iterator[Problem]:
    for k, source in enumerate(spec.sources):
        loc, found = ("sources", k, "robot"), component_of(robots / source.robot)
        if found == COMPONENT_TYPE:
            yield Problem(loc, f"{source.robot} is a mixture itself; list its sources here instead, with weights for this mixture")
        elif found is None or "/" in source.robot:
            known = sorted(path.parent.name for path in robots.glob(f"*/{DEFS}") if component_of(path.parent) == ROBOT)
            yield Problem(loc, f"there is no robot {source.robot!r} in {robots}; {nearest(source.robot, known)}")


def _weights(spec: MixtureSpec) -> Iterator[Problem]:
    without = [k for k, source in enumerate(spec.sources) if source.weight is None]
    if without and len(without) < len(spec.sources):
        for k in without:
            said = f"{spec.sources[k].called} has no weight and others have; write one for every source, or for none (by frames)"
            yield Problem(("sources", k), said)


def _twice(spec: MixtureSpec) -> Iterator[Problem]:
    """One name a source, and no episode in two sources."""
    for k, source in enumerate(spec.sources):
        if source.called == "merged":
            yield Problem(("sources", k), "the norm stats of all sources are called `merged`; write another `name:` for this one")
        for other in spec.sources[:k]:
            if other.robot == source.robot and (other.tasks is None or source.tasks is None):
                yield Problem(("sources", k), f"{source.robot} is there twice; write `tasks` for both, with no text in both")
            elif other.robot == source.robot and (both := set(other.tasks or ()) & set(source.tasks or ())):
                yield Problem(("sources", k, "tasks"), f"{source.robot} is there twice with the task {min(both)!r}; an episode counts once")
            elif other.called == source.called:
                yield Problem(("sources", k), f"two sources are called {source.called}; write `name:` for one of them")
