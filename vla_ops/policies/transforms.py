"""Everything between a robot's units and a model's numbers, in one object for training, evaluation and serving.

    transforms = compose(spec, stats, model, tokenizer, robot="my_arm")
    inputs  = transforms.forward_training(TrainingRow(observation, actions))
    inputs  = transforms.forward_inference(observation)
    actions = transforms.inverse(model_actions, observation)

It is made from the same spec as the norm stats and of the same functions, and its `fingerprint` belongs into the run: what is served
must have the one that was trained with. Rows come alone ([d], [H, a], [h, w, 3]) or as a batch (all with a leading [B]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vla_ops.embodiment import Embodiment
from vla_ops.errors import PromptError, SchemaMismatchError, StatsMismatchError, VlaOpsError
from vla_ops.norm_stats import Provenance
from vla_ops.policies.images import CameraSlots, UInt8
from vla_ops.policies.normalize import Normalisation, Normalize
from vla_ops.policies.policy_stats import PolicyStats, check_stats
from vla_ops.policies.prompts import Int32, Prompts
from vla_ops.policies.steps import AdaptToPi, Bools, Chain, DeltaActions, Float64, Floats, Now, Pad
from vla_ops.policies.tokenizer import Tokenizer
from vla_ops.robot import Dimension, fingerprint

type Float32 = npt.NDArray[np.float32]

# Raise when the same spec, stats and model would now give other numbers: a run's fingerprint then no longer fits.
TRANSFORMS_VERSION = 1


class TakesInputs(Protocol):
    """What of a model's configuration its inputs depend on (`vla_ops.models.config.ModelConfig` has it)."""

    @property
    def family(self) -> Literal["pi0", "pi05"]:
        """Decides how vectors are normalised and what the prompt tells."""
        ...

    @property
    def action_dim(self) -> int:
        """Width of its state and actions."""
        ...

    @property
    def action_horizon(self) -> int:
        """Steps in a chunk."""
        ...

    @property
    def max_token_len(self) -> int:
        """Tokens of a prompt."""
        ...

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def image_size(self) -> int:
        """Width and height of its images."""
        ...

    @property
    def cameras(self) -> Sequence[str]:
        """Its image slots, in order."""
        ...


@dataclass(frozen=True, eq=False)
class Observation:
    """What the robot sees and is told, in its own units and names."""

    # [d] or [B, d], in the order of the spec's state.
    state: Floats
    # Camera's name in the spec -> RGB uint8 (or floats 0 .. 1) [H, W, 3] or [3, H, W], or such a batch.
    images: Mapping[str, npt.NDArray[Any]]
    # One text, or one a row.
    prompt: str | Sequence[str] | None = None
    # Where rows of a mixture say themselves which actions are deltas: [a] or [B, a].
    delta_mask: Bools | None = None
    # Of a mixture: the name of its source, or one a row.
    source: str | Sequence[str] | None = None
    # What was seen before, one step after another, the oldest first: for policies that see several steps. None of them has a past itself.
    past: tuple[Observation, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingRow:
    """An observation and the chunk recorded from there on: absolute, in robot units, [H, a] or [B, H, a]."""

    observation: Observation
    actions: Floats


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """What a model is given; all with a leading [B] where the row had it."""

    # [action_dim]
    state: Float32
    # Slot -> [size, size, 3], and slot -> whether there is a camera.
    images: dict[str, UInt8]
    image_masks: dict[str, Bools]
    # [max_token_len]
    tokens: Int32
    token_mask: Bools
    # [H, action_dim]; None at inference.
    actions: Float32 | None = None

    def as_dict(self) -> dict[str, Any]:
        """In openpi's keys, which `vla_ops.models` reads; `actions` only where there are any."""
        given = {"state": self.state, "image": self.images, "image_mask": self.image_masks}
        given |= {"tokenized_prompt": self.tokens, "tokenized_prompt_mask": self.token_mask}
        return given if self.actions is None else given | {"actions": self.actions}


def stack_inputs(rows: Sequence[ModelInputs]) -> ModelInputs:
    """One batch of single rows; all with actions, or none."""
    return join_inputs(rows, np.stack)


def join_inputs(rows: Sequence[ModelInputs], join: Callable[[list[npt.NDArray[Any]]], npt.NDArray[Any]]) -> ModelInputs:
    """One batch, each of its arrays joined of those of `rows`; all with actions, or none."""

    def together(name: str) -> Any:
        values = [getattr(row, name) for row in rows]
        return {slot: join([value[slot] for value in values]) for slot in values[0]} if isinstance(values[0], dict) else join(values)

    actions = None if rows[0].actions is None else together("actions")
    return ModelInputs(
        state=together("state"),
        images=together("images"),
        image_masks=together("image_masks"),
        tokens=together("tokens"),
        token_mask=together("token_mask"),
        actions=actions,
    )


@dataclass(frozen=True, eq=False)
class PolicyTransforms:
    """Robot units -> model inputs, and model actions -> robot units."""

    robot: str
    state_dims: tuple[Dimension, ...]
    action_dims: tuple[Dimension, ...]
    horizon: int
    # Robot units <-> normalised, at the robot's own width: this is what pi0.5's prompt tells of the state.
    chain: Chain
    pad: Pad
    cameras: CameraSlots
    prompts: Prompts
    # Of the norm stats; only to be looked up.
    stats_fingerprint: str = field(default="")

    def forward_inference(self, observation: Observation) -> ModelInputs:
        """What the model is given of `observation`. Raise SchemaMismatchError or PromptError for what does not fit, by name."""
        with _naming(self.robot):
            return self._forward(observation, None)

    def forward_training(self, row: TrainingRow) -> ModelInputs:
        """The same with the actions that are to be learned. Raise SchemaMismatchError or PromptError for what does not fit, by name."""
        with _naming(self.robot):
            return self._forward(row.observation, row.actions)

    def encode_actions(self, actions: npt.ArrayLike, observation: Observation) -> Float32:
        """The first steps of a chunk, absolute in robot units [n, a], as the model would give them of `observation` [n, action_dim].

        Raise SchemaMismatchError, by name, for more steps than a chunk has, another width, or numbers that are not finite.
        """
        given = np.asarray(actions, np.float64)
        with _naming(self.robot):
            check_state(observation.state, self.state_dims)
            check_first_actions(given, self.action_dims, self.horizon)
            return self._encoded(given, Now(observation.state, observation.delta_mask))

    def inverse(self, actions: npt.ArrayLike, observation: Observation) -> Float64:
        """A model's actions [..., H, action_dim] of `observation` in robot units [..., H, a], float64.

        Raise SchemaMismatchError for another shape, and for numbers that are not finite: they must not reach a robot.
        """
        predicted = np.asarray(actions, np.float64)
        with _naming(self.robot):
            check_state(observation.state, self.state_dims)
            self._check_actions(predicted, observation.state, width=self.pad.width, whose="the model's")
            now = Now(observation.state, observation.delta_mask)
            decoded = self.chain.decode(self.pad.decode(predicted, now), now).astype(np.float64)
            refuse_nonfinite(decoded, self.action_dims, "an action of the model, in robot units,")
        return decoded

    def relative(self, actions: Float64, observation: Observation) -> Float64:
        """Absolute actions [..., H, a] of the robot as deltas from the observation's state, where the model was trained on deltas."""
        now = Now(observation.state, observation.delta_mask)
        step = next((step for step in self.chain.steps if isinstance(step, DeltaActions)), None)
        return actions if step is None else step.encode(actions, now)

    def describe(self) -> dict[str, Any]:
        """Everything that determines what comes out, as JSON."""
        return {
            "version": TRANSFORMS_VERSION,
            "robot": self.robot,
            "state": [[dim.name, dim.unit] for dim in self.state_dims],
            "actions": [[dim.name, dim.unit] for dim in self.action_dims],
            "horizon": self.horizon,
            "steps": [*self.chain.describe(), {"step": "Pad", **self.pad.describe()}],
            "cameras": {"slots": [list(pair) for pair in self.cameras.shown], "size": self.cameras.size},
            "prompt": self.prompts.describe(),
        }

    @property
    def fingerprint(self) -> str:
        """Hash of `describe`: the same in training, evaluation and serving, or something is wrong."""
        return fingerprint(self.describe())

    def _forward(self, observation: Observation, actions: Floats | None) -> ModelInputs:
        check_state(observation.state, self.state_dims)
        now = Now(observation.state, observation.delta_mask)
        wanted = None
        if actions is not None:
            self._check_actions(actions, observation.state, width=len(self.action_dims), whose="the row's")
            wanted = self._encoded(actions, now)
        state = self.chain.state(now)
        tokens, token_mask = self._tokens(observation.prompt, state)
        images, image_masks = self.cameras.images(observation.images, state.shape[:-1])
        return ModelInputs(self.pad.state(state).astype(np.float32), images, image_masks, tokens, token_mask, wanted)

    def _encoded(self, actions: Floats, now: Now) -> Float32:
        return self.pad.encode(self.chain.encode(actions, now), now).astype(np.float32)

    def _tokens(self, prompt: str | Sequence[str] | None, state: Floats) -> tuple[Int32, Bools]:
        rows = np.atleast_2d(state)
        texts = [prompt] * len(rows) if prompt is None or isinstance(prompt, str) else list(prompt)
        if len(texts) != len(rows):
            raise PromptError("one prompt, or one a row is needed", found=f"{len(texts)} prompts", expected=f"{len(rows)} rows")
        pairs = [self.prompts.tokens(text, row) for text, row in zip(texts, rows, strict=True)]
        shape = (*state.shape[:-1], self.prompts.max_token_len)
        return np.stack([ids for ids, _ in pairs]).reshape(shape), np.stack([mask for _, mask in pairs]).reshape(shape)

    def _check_actions(self, actions: Floats, state: Floats, *, width: int, whose: str) -> None:
        if actions.shape != (*state.shape[:-1], self.horizon, width):
            padded = f" ({_named(self.action_dims)}, then padding)" if whose == "the model's" else f": {_named(self.action_dims)}"
            raise SchemaMismatchError(
                f"{whose} actions have another shape than the chunk",
                found=f"{actions.shape} for a state of {state.shape}",
                expected=f"{(*state.shape[:-1], self.horizon, width)}{padded}",
                todo="Is the model of this horizon and action_dim, and the state of the same batch?",
            )
        refuse_nonfinite(actions, self.action_dims, f"{whose} action")


def check_state(state: Floats, dims: Sequence[Dimension]) -> None:
    """Raise SchemaMismatchError, by name, for a state that is not finite or not of these dimensions: [d] or [B, d]."""
    width = len(dims)
    if state.ndim not in (1, 2) or state.shape[-1] != width:
        raise SchemaMismatchError(
            "the state is not the robot's",
            dimension=_missing(dims, state.shape),
            found=f"shape {state.shape}",
            expected=f"({width},) or (batch, {width}): {_named(dims)}",
            todo="Send them in this order and in these units.",
        )
    refuse_nonfinite(state, dims, "the state")


def check_first_actions(actions: Float64, dims: Sequence[Dimension], horizon: int) -> None:
    """Raise SchemaMismatchError, by name, for what are not the first actions [n, a] of a chunk of `horizon` steps."""
    if actions.ndim != 2 or actions.shape[1] != len(dims) or not 1 <= len(actions) <= horizon:
        expected = f"(1 .. {horizon}, {len(dims)}): {_named(dims)}"
        raise SchemaMismatchError("not the first actions of a chunk of this robot", found=f"shape {actions.shape}", expected=expected)
    refuse_nonfinite(actions, dims, "an action")


def compose(
    spec: Embodiment,
    stats: PolicyStats,
    model: TakesInputs,
    tokenizer: Tokenizer,
    *,
    robot: str,
    dataset_version: str | None = None,
    default_prompt: str | None = None,
    truncate_prompts: bool = False,
    discrete_state: bool | None = None,
) -> PolicyTransforms:
    """All that stands between this robot and this model.

    `discrete_state` (in pi0.5's prompt) is what the family does unless it is said. Raise StatsMismatchError for norm stats of something
    else, SchemaMismatchError for a robot or tokenizer that the model cannot take.
    """
    check_model_takes(spec, model, tokenizer, robot=robot)
    check_stats(stats, spec, robot=robot, horizon=model.action_horizon, dataset_version=dataset_version)
    made = Provenance.of(spec, robot=robot, dataset_version="")
    chain = Chain()
    if made.adapt_to_pi:
        chain = chain.push(AdaptToPi())
    # In a mixture single rows may say that their actions are deltas: the step is there also where the spec's own mask is empty.
    chain = chain.push(DeltaActions(tuple(dim.name for dim in made.action_dims), made.delta_mask, made.delta_rotations))
    chain = chain.push(_normalize(stats, normalisation_of(model), robot=robot))
    in_prompt = model.family == "pi05" if discrete_state is None else discrete_state
    return PolicyTransforms(
        robot=robot,
        state_dims=tuple(spec.state_dims),
        action_dims=tuple(spec.action_dims),
        horizon=model.action_horizon,
        chain=chain,
        pad=Pad(model.action_dim, len(made.action_dims)),
        cameras=CameraSlots.of(spec, slots=model.cameras, size=model.image_size, robot=robot),
        prompts=Prompts(tokenizer, model.max_token_len, in_prompt, default_prompt, truncate_prompts),
        stats_fingerprint=stats.fingerprint,
    )


def normalisation_of(model: TakesInputs) -> Normalisation:
    """By mean and std for pi0, by quantiles for every other model."""
    return "z_score" if model.family == "pi0" else "quantile"


def check_model_takes(spec: Embodiment, model: TakesInputs, tokenizer: Tokenizer, *, robot: str) -> None:
    """Raise SchemaMismatchError, naming what is too much, unless the model has a place for each of the robot's dimensions and tokens."""
    for vector, dims in (("state", spec.state_dims), ("action", spec.action_dims)):
        if len(dims) > model.action_dim:
            # openpi pads nothing where a vector is too wide, and fails in the first layer (#580).
            raise SchemaMismatchError(
                f"the robot's {vector} is wider than the model's vectors",
                robot=robot,
                dimension=", ".join(dim.name for dim in dims[model.action_dim :]),
                found=f"{len(dims)} dimensions",
                expected=f"at most {model.action_dim} (action_dim)",
                todo="Leave dimensions out in the robot's YAML, or train a model with a wider action_dim.",
            )
    if tokenizer.vocab_size > model.vocab_size:
        raise SchemaMismatchError(
            "the tokenizer has more tokens than the model",
            robot=robot,
            found=f"{tokenizer.vocab_size} ({tokenizer.fingerprint[:24]})",
            expected=f"at most {model.vocab_size} (vocab_size)",
            todo="Take the tokenizer that the model was trained with; `bytes` is for tiny models.",
        )


def _normalize(stats: PolicyStats, by: Normalisation, *, robot: str) -> Normalize:
    try:
        return Normalize(stats.state.scale(by), stats.actions.scale(by))
    except ValueError as error:
        raise StatsMismatchError(
            "this model is normalised by quantiles, and the norm stats have none",
            robot=robot,
            file=stats.origin,
            found="mean and std alone",
            expected="q01 and q99",
            todo="Compute the norm stats of the robot's own dataset.",
        ) from error


def refuse_nonfinite(values: Floats, dims: Sequence[Dimension], what: str) -> None:
    """Raise SchemaMismatchError, naming the dimension, where one of [..., d or more] is not a finite number."""
    wrong = ~np.isfinite(values[..., : len(dims)])
    if not wrong.any():
        return
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise SchemaMismatchError(
        f"{what} is not finite",
        dimension=dims[place[-1]].name,
        found=f"{values[place]} at {list(place[:-1])} ({int(wrong.sum())} such values)",
        expected=f"a number in {dims[place[-1]].unit}",
        todo="Nothing is sent on: look at what came before it.",
    )


@contextmanager
def _naming(robot: str) -> Iterator[None]:
    try:
        yield
    except VlaOpsError as error:
        error.at(robot=robot)
        raise


def _named(dims: Sequence[Dimension]) -> str:
    return ", ".join(f"{dim.name} ({dim.unit})" for dim in dims)


def _missing(dims: Sequence[Dimension], shape: tuple[int, ...]) -> str | None:
    """The names a vector that is too short lacks."""
    width = shape[-1] if shape else 0
    return ", ".join(dim.name for dim in dims[width:]) or None
