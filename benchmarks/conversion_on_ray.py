"""Conversion on one and on two Ray workers of one core each, and on one and two local ones, side by side in one run.

`python benchmarks/conversion_on_ray.py [--recordings N] [--seconds S] [--rounds R] [--without-local]`: recordings of two
cameras of 240 x 320 at 30 Hz and joints at 250 Hz in MCAP, AV1 as LeRobot has it. Every contender converts the same recordings into an
empty store: the nodes of the cluster and all that they start are bound to a core each, and the local workers to as many cores as there
are workers.
A cluster runs before anything is timed, has converted once, and is alone: its peer is started when it is gone. Connecting is part of
the time.

On a machine that others use, two workers get less than twice what one gets. So the CPU seconds that the busiest node or worker used are
shown too: what a run takes at least, and takes where the cores are idle otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import conversion as made_up
import psutil

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import make_plan
from vla_ops.episodes.pool import Frames, Workers
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers import LocalWorkers
from vla_ops.episodes.workers.ray_workers import RayWorkers
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot
from vla_ops.spec import RayConversion

TARGET = 1.7
# In the command line of a local worker.
_WORKER = "vla_ops.episodes.worker"


@dataclass(frozen=True)
class Timing:
    """One run: wall seconds, and CPU seconds of the busiest node, or of the busiest worker on this machine."""

    seconds: float
    busiest_s: float


@dataclass(frozen=True)
class RayCluster:
    """A running cluster; `raylets` has the process of each node whose children are its workers."""

    address: str
    raylets: list[int]


@contextmanager
def cluster(cores: Sequence[int]) -> Iterator[RayCluster]:
    """A Ray node of one core for each of `cores`, bound to it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    nodes, raylets = Cluster(), []
    try:
        for core in cores:
            node = nodes.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20)
            raylets += [info.process.pid for info in node.all_processes["raylet"]]
            _bind(psutil.Process(raylets[-1]), [core])
        yield RayCluster(nodes.address, raylets)
    finally:
        nodes.shutdown()


def _bind(process: psutil.Process, cores: list[int]) -> None:
    for each in (process, *process.children(recursive=True)):
        for thread in each.threads():
            os.sched_setaffinity(thread.id, cores)


@contextmanager
def bound_to(cores: Sequence[int]) -> Iterator[None]:
    """Run what is started meanwhile on `cores` alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Used:
    """CPU seconds since the beginning of each node, or of each worker process of this one, as last seen: workers end with their work."""

    def __init__(self, raylets: Sequence[int]) -> None:
        self.raylets, self.now = list(raylets), dict[int, float]()
        self.look()
        self.before = dict(self.now)

    def look(self) -> None:
        """Ask now."""
        for process in map(psutil.Process, self.raylets) if self.raylets else psutil.Process().children():
            with suppress(psutil.Error):
                if self.raylets or _WORKER in process.cmdline():
                    self.now[process.pid] = sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))

    def busiest(self) -> float:
        """Of the one that used most."""
        return max(seconds - self.before.get(pid, 0.0) for pid, seconds in self.now.items())


def convert(robot: Robot, workers: Workers, *, raylets: Sequence[int] = ()) -> Timing:
    """Convert all recordings into an empty store."""
    with tempfile.TemporaryDirectory(prefix="bench-ray-") as folder:
        store = RobotStore.of("bench", Path(folder))
        todo = make_plan(robot, store).todo
        began, used, done = time.perf_counter(), _Used(raylets), 0
        for event in workers.convert(todo, spec=robot.spec, store=store.root):
            assert isinstance(event, Frames) or (isinstance(event, Conversion) and event.quarantined is None), event
            used.look()
            done += not isinstance(event, Frames)
        seconds = time.perf_counter() - began
        assert done == len(todo)
    return Timing(seconds, used.busiest())


def robot_of(folder: Path, *, recordings: int, seconds: float) -> Robot:
    """Recordings that differ, and the robot they are of."""
    made_up.HEIGHT, made_up.WIDTH = 240, 320
    folder.mkdir()
    for k in range(recordings):
        frames = {f"cam_{c}": list(made_up._camera_frames(round(seconds * made_up.RATE_HZ), seed=2 * k + c)) for c in range(2)}
        made_up._write_mcap(folder / f"{k}.mcap", frames)
    cameras = {name: {"source": f"/{name}"} for name in ("cam_0", "cam_1")}
    read = {"uri": str(folder), "pattern": "*.mcap", "format": "mcap", "settle_s": 0}
    spec = made_up.SPEC | {"recordings": read, "cameras": cameras, "dataset": {"repo_id": "bench/ray", "video": {"codec": "av1"}}}
    return Robot("bench", folder, RobotSpec.model_validate(spec))


@dataclass(frozen=True)
class Contender:
    """Where to convert, on how many cores, and the cores of the process that starts or feeds the workers."""

    name: str
    workers: int
    on_ray: bool
    cores: Sequence[int]

    def run(self, robot: Robot, few: Robot) -> Timing:
        """Convert the robot's recordings, after those of `few` once."""
        with bound_to(self.cores), self.ready() as (workers, raylets):
            convert(few, workers, raylets=raylets)
            return convert(robot, workers, raylets=raylets)

    @contextmanager
    def ready(self) -> Iterator[tuple[Workers, list[int]]]:
        """Its workers, and the nodes that they are on."""
        if not self.on_ray:
            yield LocalWorkers(self.workers), []
            return
        with cluster(self.cores[: self.workers]) as made:
            yield RayWorkers(RayConversion(address=made.address)), made.raylets


def contenders(cores: Sequence[int], *, local: bool) -> list[Contender]:
    """Ray and this machine, with one and with two workers."""
    ray = [Contender("ray, one worker", 1, True, cores), Contender("ray, two workers", 2, True, cores)]
    here = [Contender("local, one worker", 1, False, cores[:1]), Contender("local, two workers", 2, False, cores)]
    return [*ray, *here] if local else ray


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-local", action="store_true", help="leave out the workers of this machine")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory(prefix="bench-ray-raw-") as folder:
        print(f"{options.recordings} recordings of {options.seconds:g} s, cores {cores}, load {os.getloadavg()[0]:.1f}")
        robot = robot_of(Path(folder) / "raw", recordings=options.recordings, seconds=options.seconds)
        few = robot_of(Path(folder) / "few", recordings=2, seconds=0.2)
        rounds: list[dict[str, Timing]] = []
        for _ in range(options.rounds):
            rounds.append({contender.name: contender.run(robot, few) for contender in contenders(cores, local=not options.without_local)})
            shown = "  ".join(f"{name} {timing.seconds:.1f} s ({timing.busiest_s:.1f})" for name, timing in rounds[-1].items())
            print(f"{shown}  load {os.getloadavg()[0]:.1f}", flush=True)
    print_table(rounds)


def print_table(rounds: Sequence[dict[str, Timing]]) -> None:
    """Print the ratios of each round's neighbours by the clock and by CPU seconds, and whether the target is met."""
    for where in ("ray", "local") if "local, one worker" in rounds[0] else ("ray",):
        pairs = [(row[f"{where}, one worker"], row[f"{where}, two workers"]) for row in rounds]
        clock = [one.seconds / two.seconds for one, two in pairs]
        cpu = [one.busiest_s / two.busiest_s for one, two in pairs]
        print(f"{where}, two workers against one: {_shown(clock)} by the clock, {_shown(cpu)} by CPU seconds of the busiest")
        if where == "ray":
            met = [name for name, ratios in (("clock", clock), ("CPU seconds", cpu)) if statistics.median(ratios) >= TARGET]
    print(f"target: ray at least {TARGET}: met by {', '.join(met) or 'neither'}")


def _shown(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"


if __name__ == "__main__":
    main()
