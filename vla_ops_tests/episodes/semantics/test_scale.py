"""How often the judges of folders look at an episode: as often for many folders as for few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vla_ops.episodes.semantics.seen import Seen
from vla_ops.episodes.semantics.stations import judge_stations
from vla_ops.episodes.semantics.tasks import judge_tasks
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.made_up import spec_of

COUNT, SPEC = 240, spec_of(["j1", "j2"])


@dataclass
class CountedMeta:
    """An episode that counts how often its statistics and its recording's name are asked for."""

    recording: str
    values: dict[str, Any]
    looks: list[str] = field(default_factory=list)
    task: str = "pick the cup"
    index: int = 0
    length: int = 100

    @property
    def id(self) -> str:
        self.looks.append("id")
        return f"{self.recording}/0"

    @property
    def stats(self) -> dict[str, Any]:
        self.looks.append("stats")
        return {"observation.state": self.values}

    @property
    def videos(self) -> dict[str, Any]:
        self.looks.append("videos")
        return {}


def looks_at(judge: Callable[[Seen, RobotSpec], object], folders: int) -> int:
    draw = np.random.default_rng(0)
    looks: list[str] = []
    metas = []
    for k in range(COUNT):
        low, high = draw.uniform(-1, 0, 2), draw.uniform(0.5, 1, 2)
        values = {"min": low.tolist(), "max": high.tolist(), "q50": ((low + high) / 2).tolist(), "std": [0.4, 0.4]}
        metas.append(CountedMeta(f"folder{k % folders}/{k}.mcap", values, looks, task=f"task {k % folders}"))
    judge(Seen(metas, lambda _: pytest.fail("the numbers were read")), SPEC)
    return len(looks)


@pytest.mark.parametrize("judge", [judge_stations, judge_tasks])
def test_ten_times_the_folders_do_not_cost_twice_the_looks(judge: Callable[[Seen, RobotSpec], object]) -> None:
    assert looks_at(judge, 60) < 2 * looks_at(judge, 6)
