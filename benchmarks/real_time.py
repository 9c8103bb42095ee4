"""Chunks that go on from one another, against chunks that do not: the jump where they meet, and what a call costs.

    python -m benchmarks.real_time                              the demo's policy (`make demo`), its held-out episodes
    python -m benchmarks.real_time ROBOT/TRAINING@best --export FOLDER      with its export, computed by PyTorch

A robot that carries out the recorded motion asks again after half a chunk, and each reply is there 20, 50 or 100 ms later. The peer begins
the new chunk then, as `ActionChunkBroker(ahead=...)` does. A jump is the largest change of an action from one step to the next where chunks
meet, in the model's own units (joints and grippers alike), over the median of such changes within chunks.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DELAYS_MS = (20, 50, 100)
EPISODES = 3


def main() -> None:
    from vla_ops.home import home
    from vla_ops.policies.backend import BackendOptions
    from vla_ops.policies.policy import Policy
    from vla_ops.policies.real_time import RealTime
    from vla_ops.training.run import read_run

    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("policy", nargs="?", default="aloha_sim/pi0_tiny@best")
    asked.add_argument("--export", type=Path, help="the same policy as an export")
    given = asked.parse_args()
    ways = {"paper's gradient": RealTime(), "LeRobot's": RealTime(through_model=False)}
    for uri in filter(None, (given.policy, given.export)):
        policies = {name: Policy.load(uri, home=home(), options=BackendOptions(real_time=rules)) for name, rules in ways.items()}
        first = next(iter(policies.values()))
        if uri == given.policy:
            episodes = list(held_out(read_run(first.setup.folder.parent / "run.json"), first.transforms))
        print(f"\n{first.metadata['policy']} by {first.backend.name}: {len(episodes)} held-out episodes, {first.metadata['rate_hz']:g} Hz")
        latency(policies, episodes[0])
        jumps(policies, episodes)


def held_out(run: Any, transforms: Any) -> Iterator[list[Any]]:
    """The observations of each held-out episode, with what was recorded in their place."""
    from vla_ops.backends.jax import frames_of
    from vla_ops.training.data import InOrder, Loader

    frames, config = frames_of(run.recipe, transforms), run.recipe.model
    rows = frames.validation_rows()
    episodes = [rows[frames.place_of(rows) == place] for place in np.unique(frames.place_of(rows))[:EPISODES]]
    for of_one in episodes:
        with Loader(
            frames, InOrder(of_one), batch_size=1, horizon=config.action_horizon, size=config.image_size, workers=0, transform=lambda _: {}
        ) as loader:
            yield [next(loader).batch.row(0) for _ in of_one]


def seen(batch: Any) -> Any:
    from vla_ops.policies import Observation

    return Observation(batch.state[0], {camera: image[0] for camera, image in batch.images.items()}, batch.prompts[0])


def latency(policies: dict[str, Any], episode: Sequence[Any], rounds: int = 60) -> None:
    """Calls with and without an overlap, in turn."""
    from vla_ops.policies.real_time import Overlap

    observation, plain = seen(episode[0]), next(iter(policies.values()))
    before = plain.infer(observation)
    took: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, policy, overlap in [("without", plain, None), *((name, one, Overlap(before[25:], 3)) for name, one in policies.items())]:
            began = time.perf_counter()
            policy.infer(observation, overlap=overlap)
            took.setdefault(name, []).append(time.perf_counter() - began)
    usual = statistics.median(took["without"])
    print(f"  {'a call':<18} {'p50 ms':>8} {'p95 ms':>8} {'/ without':>10}")
    for name, seconds in took.items():
        middle, late = statistics.median(seconds), sorted(seconds)[int(0.95 * len(seconds))]
        print(f"  {name:<18} {middle * 1e3:8.1f} {late * 1e3:8.1f} {middle / usual:10.2f}")


def jumps(policies: dict[str, Any], episodes: Sequence[Sequence[Any]]) -> None:
    rate = next(iter(policies.values())).metadata["rate_hz"]
    print(f"  {'delay':<8} {'steps':>5}   {'':<18} {'jump p50':>9} {'jump max':>9} {'/ without':>10} {'error':>8}")
    for delay_ms in DELAYS_MS:
        delay = math.ceil(delay_ms * rate / 1e3)
        usual = None
        for name, policy in [("without", next(iter(policies.values()))), *policies.items()]:
            moved = [carried_out(policy, episode, delay=delay, joined=name != "without") for episode in episodes]
            jump = np.concatenate([each for each, _ in moved])
            usual = usual or float(np.median(jump))
            error = float(np.mean([error for _, error in moved]))
            row = f"{np.median(jump):9.1f} {jump.max():9.1f} {np.median(jump) / usual:10.2f} {error:8.3f}"
            print(f"  {delay_ms:>3} ms   {delay:>5}   {name:<18} {row}")


def carried_out(policy: Any, episode: Sequence[Any], *, delay: int, joined: bool) -> tuple[Any, float]:
    """The jumps where chunks met, and the mean distance from what was recorded, in the model's own units."""
    from vla_ops.policies.real_time import Overlap

    again, scale = policy.horizon // 2, _scale(policy)
    chunk, at = policy.infer(seen(episode[0])), 0
    coming: tuple[int, Any] | None = None
    moved, met = [], []
    for step, batch in enumerate(episode):
        if coming is not None and step - coming[0] == delay:
            chunk, at, coming = coming[1], delay, None
            met.append(step)
        elif coming is None and at >= again:
            coming = (step, policy.infer(seen(batch), overlap=Overlap(chunk[at:], delay) if joined else None))
        moved.append(chunk[at])
        at += 1
    path = np.array(moved) / scale
    changes = np.abs(np.diff(path, axis=0)).max(axis=1)
    within = np.delete(changes, np.array(met) - 1)
    recorded = np.array([batch.actions[0, 0] for batch in episode]) / scale
    return changes[np.array(met) - 1] / np.median(within), float(np.abs(path - recorded).mean())


def _scale(policy: Any) -> Any:
    """What one of the model's units is in the robot's."""
    from vla_ops.policies.normalize import Normalize

    step = next(step for step in policy.transforms.chain.steps if isinstance(step, Normalize))
    zero, one = (step.decode(np.full((1, len(policy.transforms.action_dims)), value), None) for value in (0.0, 1.0))
    return np.abs(one - zero)[0]


if __name__ == "__main__":
    main()
