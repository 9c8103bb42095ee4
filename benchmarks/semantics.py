"""How often measured semantics find a labelled mistake in real recordings, and whether they find one where there is none.

Run: python -m benchmarks.semantics [--write docs/semantics_table.md]
Target: at least 95 % of the mistakes that matter are found, and no false alarm on untouched recordings.

The recordings are those of robots/aloha_sim and, where they are there, the shared real ones (VLA_OPS_TEST_RECORDINGS); each is
spoiled in one way at a time (corruptions.py and spoiled_numbers.py in vla_ops_tests/episodes/semantics), in every dimension, camera
or episode that can have it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vla_ops.episodes.semantics import Seen, contradictions, judge
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import load_robot
from vla_ops_tests.episodes.ingesting import run
from vla_ops_tests.episodes.semantics.corruptions import CORRUPTIONS, Recall, recall
from vla_ops_tests.episodes.semantics.spoiled_numbers import CORRUPTIONS as OF_NUMBERS

REPO = Path(__file__).resolve().parents[1]
SHARED = ("airbot_ptk", "airbot_old_collector", "umi_bimanual", "robosuite_handover", "robosuite_wipe", "cartpole_sim", "pusht")


@dataclass(frozen=True)
class Recorded:
    """A robot's real recordings, ingested."""

    name: str
    seen: Seen
    spec: RobotSpec


def recorded(folder: Path) -> Iterator[Recorded]:
    """Ingest every robot whose recordings are there."""
    shared = Path(os.environ.setdefault("VLA_OPS_TEST_RECORDINGS", str(REPO.parent / "shared" / "recordings")))
    robots = [REPO / "robots" / "aloha_sim", *(REPO / "vla_ops_tests" / "robots" / name for name in SHARED if shared.is_dir())]
    for path in robots:
        robot = load_robot(path)
        store = run(robot, folder / robot.name).store
        ids = sorted(p.parent.relative_to(store.episodes).as_posix() for p in store.episodes.rglob("recording.json"))
        yield Recorded(robot.name, Seen.of([episode for key in ids for episode in store.read_episodes(key)]), robot.spec)


def table(robots: list[Recorded]) -> list[str]:
    """The rows of the table, in Markdown, and the sum."""
    lines, every = ["| mistake | check | found | of | missed |", "|---|---|---|---|---|"], list[Recall]()
    for corruption in (*CORRUPTIONS, *OF_NUMBERS):
        results = {robot.name: found for robot in robots if (found := recall(corruption, robot.seen, robot.spec)) is not None}
        lines.append(_row(corruption.name, ", ".join(f"`{check}`" for check in corruption.checks), results))
        every += results.values()
    found, made = sum(r.found for r in every), sum(r.made for r in every)
    return [*lines, f"| **all** | | **{found}** | **{made}** ({found / made:.1%}) | |"]


def _row(name: str, checks: str, results: dict[str, Recall]) -> str:
    made, found = sum(r.made for r in results.values()), sum(r.found for r in results.values())
    missed = [f"{robot}: {'; '.join(r.missed)}" for robot, r in results.items() if r.missed]
    return f"| {name} | {checks} | {found} | {made} ({len(results)} robots) | {'; '.join(missed)} |"


# What untouched recordings are rightly found to be, by robot, check and subject (vla_ops_tests/test_real_recordings.py looks at the
# numbers themselves).
TRUE = {
    ("cartpole_sim", "motion", "state cart_position"): "the cart is held in place: cart_position is 0 in every frame",
    (
        "cartpole_sim",
        "near_duplicates",
        "episode cartpole_sim.mcap/1",
    ): "both runs of the deterministic simulation begin alike, and the second is the shorter one",
    ("umi_bimanual", "near_duplicates", "episode umi_bimanual.zarr.zip/0"): "its three episodes hold the same trajectory",
    ("umi_bimanual", "near_duplicates", "episode umi_bimanual.zarr.zip/2"): "its three episodes hold the same trajectory",
}


@dataclass(frozen=True)
class Finding:
    """What contradicts the YAML of untouched recordings; `true` is why that is right, or empty."""

    said: str
    true: str


def findings(robots: list[Recorded]) -> list[Finding]:
    """Everything that contradicts the YAML in untouched recordings."""
    return [
        Finding(f"{robot.name}: {verdict.subject}: {verdict.found}", TRUE.get((robot.name, check, verdict.subject), ""))
        for robot in robots
        for check, verdicts in judge(robot.seen, robot.spec).items()
        for verdict in contradictions(verdicts)
    ]


def main(write: Annotated[Path | None, tyro.conf.arg(help="also write the table to this file")] = None) -> None:
    """Print the table and every false alarm."""
    with tempfile.TemporaryDirectory() as folder:
        robots = list(recorded(Path(folder)))
        lines, found = table(robots), findings(robots)
    episodes, frames = sum(len(r.seen.metas) for r in robots), sum(m.length for r in robots for m in r.seen.metas)
    false = [finding for finding in found if not finding.true]
    lines.append(f"\nUntouched recordings: {len(robots)} robots, {episodes} episodes, {frames:,} frames. False alarms: {len(false)}.")
    lines += [f"- FALSE {finding.said}" for finding in false]
    lines += [f"- {finding.said} ({finding.true})" for finding in found if finding.true]
    print("\n".join(lines))
    if write is not None:
        write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
