"""One schema for several robots: their dimensions and cameras brought together by name, and every reason why they cannot be.

A dimension that a source lacks is 0 in its frames and False in the mask beside the vector; a camera that it lacks is black and
masked. Nothing is ever paired by position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from vla_ops.defs_file import nearest
from vla_ops.mixture import MixtureSpec, SourceSpec
from vla_ops.robot import SLOTS, Dimension, RobotSpec, RotationGroup, fingerprint, rotation_groups, training_problem
from vla_ops.spec import NextState, NormStatsSpec
from vla_ops.spec.base import Role
from vla_ops.yaml_file import Loc

type Vector = Literal["state", "action"]

VECTORS: tuple[Vector, ...] = ("state", "action")
# What one dimension must be in every source that has it.
_OF_A_DIMENSION = ("unit", "kind", "means", "open_at")


@dataclass(frozen=True)
class Problem:
    """A mistake in the mixture's YAML, and the keys on the way to it."""

    loc: Loc
    said: str


@dataclass(frozen=True)
class Placement:
    """Where a source's numbers and images go: for each place of the mixture the source's column or camera, or None where it has none."""

    state: tuple[int | None, ...]
    action: tuple[int | None, ...]
    cameras: Mapping[str, str | None]

    def has(self, vector: Vector) -> tuple[bool, ...]:
        """The mask of a vector."""
        return tuple(column is not None for column in getattr(self, vector))


@dataclass(frozen=True)
class Schema:
    """What the frames of a mixture hold, and what a model's transforms derive from it, under the names that RobotSpec has for it."""

    rate_hz: int
    state_dims: tuple[Dimension, ...]
    action_dims: tuple[Dimension, ...]
    # Camera -> the model's slot it fills.
    cameras: Mapping[str, Role | None]
    norm_stats: NormStatsSpec
    # Where it is seen by one source: which of the action's dimensions the source has.
    has_action: tuple[bool, ...] | None = None

    def dims(self, vector: Vector) -> tuple[Dimension, ...]:
        """The dimensions of `state` or `action`."""
        return self.state_dims if vector == "state" else self.action_dims

    @property
    def delta_mask(self) -> tuple[bool, ...]:
        """See RobotSpec.delta_mask."""
        # There is nothing to subtract from what a source lacks; of a rotation in zeros there is not even a delta.
        has = self.has_action or (True,) * len(self.action_dims)
        is_delta = self.norm_stats.action_space == "delta"
        return tuple(is_delta and dim.is_delta and here for dim, here in zip(self.action_dims, has, strict=True))

    @property
    def delta_rotations(self) -> tuple[RotationGroup, ...]:
        """See RobotSpec.delta_rotations."""
        if self.norm_stats.rotation_delta == "subtracted":
            return ()
        mask = self.delta_mask
        return tuple(group for group in rotation_groups(self.action_dims) if mask[group.start])

    @property
    def camera_slots(self) -> dict[str, str]:
        """See RobotSpec.camera_slots."""
        by_role = {role: name for name, role in self.cameras.items() if role}
        return {slot: by_role[role] for role, slot in SLOTS.items() if role in by_role}

    def seen_by(self, placement: Placement) -> Schema:
        """What a model's transforms derive for the frames of a source placed so: all dimensions, and the cameras that it has."""
        cameras = {name: role for name, role in self.cameras.items() if placement.cameras[name] is not None}
        return replace(self, cameras=cameras, has_action=placement.has("action"))

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "norm_stats": self.norm_stats.model_dump(mode="json")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Schema:
        """The inverse of `to_json`. Raise KeyError, TypeError or ValidationError for what is none."""
        dims = {vector: tuple(Dimension(**dim) for dim in value[vector]) for vector in ("state_dims", "action_dims")}
        has = None if value["has_action"] is None else tuple(value["has_action"])
        norm_stats = NormStatsSpec.model_validate(value["norm_stats"])
        return cls(value["rate_hz"], **dims, cameras=value["cameras"], norm_stats=norm_stats, has_action=has)

    def of(self, placement: Placement) -> str:
        """Fingerprint of where the numbers and images of a source placed so stand."""
        names = [[dim.name for dim in self.dims(vector)] for vector in VECTORS]
        return fingerprint([names, placement.state, placement.action, [[camera, placement.cameras[camera]] for camera in self.cameras]])


@dataclass(frozen=True)
class Renamed:
    """A source by the mixture's names: dimension -> (what it is, its column), camera -> (the robot's name of it, its role)."""

    source: SourceSpec
    spec: RobotSpec
    state: Mapping[str, tuple[Dimension, int]]
    action: Mapping[str, tuple[Dimension, int]]
    cameras: Mapping[str, tuple[str, Role | None]]

    @classmethod
    def of(cls, source: SourceSpec, spec: RobotSpec) -> Renamed:
        """Rename; where two get one name, which `problems` says, the last counts."""
        vectors = {
            vector: {source.dims.get(dim.name, dim.name): (replace(dim, limits=None), k) for k, dim in enumerate(dims)}
            for vector, dims in (("state", spec.state_dims), ("action", spec.action_dims))
        }
        cameras: dict[str, tuple[str, Role | None]] = {
            source.cameras.get(name, name): (name, camera.role) for name, camera in spec.cameras.items()
        }
        return cls(source, spec, vectors["state"], vectors["action"], cameras)

    def vector(self, vector: Vector) -> Mapping[str, tuple[Dimension, int]]:
        """The dimensions of `state` or `action`."""
        return self.state if vector == "state" else self.action


@dataclass
class Resolved:
    """The schema and each source's place in it, or what is wrong; with problems the rest means nothing."""

    schema: Schema
    placements: list[Placement]
    problems: list[Problem] = field(default_factory=list)


def resolve(mixture: MixtureSpec, specs: Sequence[RobotSpec]) -> Resolved:
    """Bring the sources' `specs`, in their order, to one schema."""
    sources = [Renamed.of(source, spec) for source, spec in zip(mixture.sources, specs, strict=True)]
    asked = mixture.names
    dims = {vector: _union(sources, vector, getattr(asked, vector)) for vector in VECTORS}
    roles = _cameras(sources, asked.cameras)
    first = specs[0]
    schema = Schema(first.timeline.rate_hz, dims["state"], dims["action"], roles, first.norm_stats)
    placements = [_placement(source, schema) for source in sources]
    problems = [*_renaming(sources), *_asked_for(mixture, sources), *_settings(sources), *_dimensions(sources), *_roles(sources, schema)]
    problems += _trainings(mixture, schema)
    if not problems:
        problems = [*_nothing_of(sources, placements), *_rotations(sources, schema, placements), *_pairing(sources, schema, placements)]
    return Resolved(schema, placements, problems)


def _union(sources: Sequence[Renamed], vector: Vector, asked: Sequence[str] | None) -> tuple[Dimension, ...]:
    found: dict[str, Dimension] = {}
    for source in sources:
        for name, (dim, _) in source.vector(vector).items():
            found.setdefault(name, replace(dim, name=name))
    return tuple(found[name] for name in asked or found if name in found)


def _cameras(sources: Sequence[Renamed], asked: Sequence[str] | None) -> dict[str, Role | None]:
    found: dict[str, Role | None] = {}
    for source in sources:
        for name, (_, role) in source.cameras.items():
            found.setdefault(name, role)
    return {name: found[name] for name in (found if asked is None else asked) if name in found}


def _placement(source: Renamed, schema: Schema) -> Placement:
    columns = {
        vector: tuple(source.vector(vector)[dim.name][1] if dim.name in source.vector(vector) else None for dim in schema.dims(vector))
        for vector in VECTORS
    }
    cameras = {name: source.cameras[name][0] if name in source.cameras else None for name in schema.cameras}
    return Placement(columns["state"], columns["action"], cameras)


def _renaming(sources: Sequence[Renamed]) -> Iterator[Problem]:
    for k, source in enumerate(sources):
        spec, said = source.spec, source.source
        vectors = {"state": [dim.name for dim in spec.state_dims], "action": [dim.name for dim in spec.action_dims]}
        known = {"dims": list(dict.fromkeys([*vectors["state"], *vectors["action"]])), "cameras": list(spec.cameras)}
        for key, what in (("dims", "dimension"), ("cameras", "camera")):
            for name in getattr(said, key):
                if name not in known[key]:
                    yield Problem(("sources", k, key, name), f"{said.robot} has no {what} {name!r}; {nearest(name, known[key])}")
        for names, key in ((vectors["state"], "dims"), (vectors["action"], "dims"), (list(spec.cameras), "cameras")):
            table = getattr(said, key)
            for new, count in Counter(table.get(name, name) for name in names).items():
                if count > 1:
                    both = " and ".join(name for name in names if table.get(name, name) == new)
                    yield Problem(("sources", k, key), f"{both} of {said.robot} would both be {new!r}; each needs a name of its own")


def _asked_for(mixture: MixtureSpec, sources: Sequence[Renamed]) -> Iterator[Problem]:
    for key, what in (("state", "state dimension"), ("action", "action dimension"), ("cameras", "camera")):
        asked = getattr(mixture.names, key) or []
        known = list(dict.fromkeys(name for source in sources for name in getattr(source, key)))
        for place, name in enumerate(asked):
            if name not in known:
                yield Problem(("schema", key, place), f"no source has a {what} {name!r}; {nearest(name, known)}")
            elif name in asked[:place]:
                yield Problem(("schema", key, place), f"{name!r} is listed twice")


def _settings(sources: Sequence[Renamed]) -> Iterator[Problem]:
    """What is one number for the whole dataset, or for the whole model."""
    for k, source in enumerate(sources):
        for key, there, here in zip(_SETTINGS, _settings_of(sources[0]), _settings_of(source), strict=True):
            if there != here:
                yield Problem(("sources", k), f"{_differ(key, sources[0], there, source, here)}; {_SETTINGS[key]}")


_SETTINGS = {
    "timeline.rate_hz": "a dataset has one rate: convert one of them at the other's",
    **dict.fromkeys(
        (f"norm_stats.{name}" for name in NormStatsSpec.model_fields), "one model sees one form of action: write the same in both robots"
    ),
}


def _settings_of(source: Renamed) -> list[Any]:
    return [f"{source.spec.timeline.rate_hz} Hz", *source.spec.norm_stats.model_dump().values()]


def _differ(what: str, one: Renamed, there: object, other: Renamed, here: object) -> str:
    return f"{what}: {there} in {one.source.called}, {here} in {other.source.called}"


def _trainings(mixture: MixtureSpec, schema: Schema) -> Iterator[Problem]:
    for name, training in mixture.trainings.items():
        if said := training_problem(name, training, horizon=schema.norm_stats.action_horizon):
            yield Problem(("trainings", name), said)
        if training.norm_stats is not None:
            yield Problem(("trainings", name, "norm_stats"), "a mixture is trained with its own norm stats, those of each of its sources")
        if training.export is not None and (asked := training.export.source) not in (known := [s.called for s in mixture.sources]):
            todo = f"write `source: {known[0]}`, or another" if asked is None else f"there is none {asked!r}; {nearest(asked, known)}"
            yield Problem(("trainings", name, "export"), f"an export is a policy of one source: {todo}")


def _dimensions(sources: Sequence[Renamed]) -> Iterator[Problem]:
    for vector in VECTORS:
        first: dict[str, tuple[Renamed, Dimension]] = {}
        for k, source in enumerate(sources):
            for name, (dim, _) in source.vector(vector).items():
                other, there = first.setdefault(name, (source, dim))
                for key in _OF_A_DIMENSION:
                    if getattr(there, key) != getattr(dim, key):
                        said = _differ(f"{vector} {name} differs in {key}", other, getattr(there, key), source, getattr(dim, key))
                        yield Problem(("sources", k), f"{said}; rename one of them under `dims` if they are not the same quantity")


def _roles(sources: Sequence[Renamed], schema: Schema) -> Iterator[Problem]:
    first: dict[str, tuple[Renamed, Role | None]] = {}
    filled: dict[Role, tuple[Renamed, str]] = {}
    for k, source in enumerate(sources):
        for name, (_, role) in source.cameras.items():
            if name not in schema.cameras:
                continue
            other, there = first.setdefault(name, (source, role))
            if there != role:
                said = _differ(f"camera {name} differs in role", other, there or "none", source, role or "none")
                yield Problem(("sources", k), f"{said}; rename one of them under `cameras`, or correct its role")
            elif role and filled.setdefault(role, (source, name))[1] != name:
                by, camera = filled[role]
                said = f"role {role}: {camera} in {by.source.called}, {name} in {source.source.called}; a model has one slot for each role"
                yield Problem(("sources", k), f"{said}: write `cameras: {{{source.cameras[name][0]}: {camera}}}` here")


def _nothing_of(sources: Sequence[Renamed], placements: Sequence[Placement]) -> Iterator[Problem]:
    for k, (source, placement) in enumerate(zip(sources, placements, strict=True)):
        for vector in VECTORS:
            if not any(placement.has(vector)):
                yield Problem(
                    ("sources", k), f"{source.source.called} has no {vector} dimension of the schema, so nothing could be learned"
                )


def _rotations(sources: Sequence[Renamed], schema: Schema, placements: Sequence[Placement]) -> Iterator[Problem]:
    """A rotation is one thing: all of its numbers side by side in the mixture as in the source, or none."""
    for k, (source, placement) in enumerate(zip(sources, placements, strict=True)):
        for vector in VECTORS:
            dims, columns = schema.dims(vector), getattr(placement, vector)
            own = source.spec.state_dims if vector == "state" else source.spec.action_dims
            whole = {tuple(range(group.start, group.stop)) for group in rotation_groups(own)}
            kept = {columns[group.start : group.stop] for group in rotation_groups(dims)}
            for group in sorted(whole):
                if group not in kept and set(group) & set(columns):
                    names = ", ".join(own[i].name for i in group)
                    said = f"{vector} {names} of {source.source.called} are one rotation ({own[group[0]].kind}), of which"
                    yield Problem(
                        ("sources", k), f"{said} the mixture would have a part, or in another order; keep all of it, under `schema`"
                    )


def _pairing(sources: Sequence[Renamed], schema: Schema, placements: Sequence[Placement]) -> Iterator[Problem]:
    """The models' delta transform subtracts state k from action k: what was paired in a source has to be paired in the mixture."""
    for k, (source, placement) in enumerate(zip(sources, placements, strict=True)):
        for place, (column, delta) in enumerate(zip(placement.action, schema.delta_mask, strict=True)):
            if column is None or not delta:
                continue
            paired = placement.state[place] if place < len(placement.state) else None
            if paired != column:
                action, state = schema.action_dims[place].name, source.spec.state_dims[column].name
                there = schema.state_dims[place].name if place < len(schema.state_dims) else "nothing"
                yield Problem(
                    ("sources", k),
                    f"the delta of action {action} is from state {state} in {source.source.called}, and would be from {there} in the "
                    "mixture (models pair them by position); write `schema: {state: [...], action: [...]}` with both in one order",
                )
                break


def action_origin(spec: RobotSpec) -> str:
    """What the numbers of a robot's action are."""
    return f"state {spec.action.steps} frame(s) later" if isinstance(spec.action, NextState) else "recorded"
