"""What becomes of a conversion when a node of the cluster goes down, cannot do the work, or is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import make_plan, quarantine_reasons
from vla_ops.episodes.pool import Event, Frames, Lost
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers.ray_workers import RayWorkers
from vla_ops.errors import ClusterError
from vla_ops.robot_file import Robot
from vla_ops.spec import RayConversion
from vla_ops_tests.episodes.ingesting import run
from vla_ops_tests.episodes.killing import is_over, states_of, wait_for, workers_on, write_held
from vla_ops_tests.episodes.workers.contract import events_of, files_of, filmed_robot
from vla_ops_tests.holding import Hold
from vla_ops_tests.services.ray_nodes import Node, RayNodes, ray_nodes, two_nodes  # noqa: F401 - a fixture
from vla_ops_tests.services.s3 import Bucket, s3, s3_server  # noqa: F401 - fixtures

pytestmark = pytest.mark.services


def many(folder: Path) -> Robot:
    """Five recordings, each long enough to be held in the middle."""
    robot = filmed_robot(folder, 0)
    for k in range(5):
        write_held(folder / f"{k}.hdf5", seed=k)
    return robot


MANY = [f"{k}.hdf5" for k in range(5)]


def kill_in_the_middle(
    nodes: Sequence[Node], held: Hold, robot: Robot, store: RobotStore, workers: RayWorkers
) -> tuple[str, dict[str, Event]]:
    """Convert, and kill the first of `nodes` that is seen in the middle of a recording; return which one, and all outcomes."""
    outcomes: dict[str, Event] = {}
    lost = ""
    for event in events_of(workers, robot, store):
        if not isinstance(event, Frames):
            outcomes[event.recording] = event
        elif 0 < event.fraction < 0.9 and not lost:
            for node in [node for node in nodes if set(workers_on(store, event.recording)) & set(node.pids)]:
                lost = event.recording
                node.kill()
                held.release()
    return lost, outcomes


def test_a_node_killed_in_the_middle_costs_its_recording_alone(tmp_path: Path):
    robot, store = many(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    # The head converts nothing, so that whichever node is seen at work can be killed.
    with ray_nodes(cpus=0) as nodes:
        workers = RayWorkers(RayConversion(address=nodes.address))
        nodes.held.hold(*MANY)
        lost, outcomes = kill_in_the_middle([nodes.add(), nodes.add()], nodes.held, robot, store, workers)
        assert lost, "no node was seen in the middle of a recording"
        assert sorted(outcomes) == [f"{k}.hdf5" for k in range(5)]
        assert [name for name, event in outcomes.items() if isinstance(event, Lost)] == [lost]
        (reason,) = [event.reason for event in outcomes.values() if isinstance(event, Lost)]
        assert all(word in reason for word in ("on node", "died", "next run tries it again", f"[file {lost}]"))
        assert [path.name for path in store.root.rglob("*") if ".tmp-" in path.name] == []
        assert quarantine_reasons(store) == []
        assert states_of(robot, store) == {**{f"{k}.hdf5": "converted" for k in range(5)}, lost: "new"}
        # The cluster that is left converts it.
        assert run(robot, tmp_path, workers=workers).states == {lost: "converted"}
    here = files_of(run(robot, tmp_path / "here", workers=2).store)
    assert files_of(store) == here
    assert len(here) == 5 * 6


def test_one_process_a_node_converts_all_that_the_node_is_given(tmp_path: Path):
    robot, store = many(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    with ray_nodes(cpus=0) as nodes:
        nodes.add()
        # Each is held until it is seen who is in the middle of it.
        nodes.held.hold(*MANY)
        seen: dict[str, list[int]] = {}
        for event in events_of(RayWorkers(RayConversion(address=nodes.address)), robot, store):
            if isinstance(event, Frames) and event.recording not in seen and (working := workers_on(store, event.recording)):
                seen[event.recording] = working
                nodes.held.release(event.recording)
    assert set(states_of(robot, store).values()) == {"converted"}
    assert sorted(seen) == MANY
    assert len({pid for working in seen.values() for pid in working}) == 1


def test_a_run_that_is_killed_ends_its_tasks_and_the_next_run_finishes(two_nodes: RayNodes, tmp_path: Path):  # noqa: F811
    robot, store = many(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    code = (
        "import sys; from pathlib import Path; from vla_ops_tests.episodes.workers.test_ray_nodes import *; "
        "raw = Path(sys.argv[1]); run(filmed_robot(raw / 'raw', 0), raw, workers=RayWorkers(RayConversion(address=sys.argv[2])))"
    )
    two_nodes.held.hold(*MANY)
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), two_nodes.address], cwd=Path(__file__).parents[3])
    workers = [pid for k in range(2) for pid in wait_for(lambda k=k: workers_on(store, f"{k}.hdf5"))]
    parent.kill()
    parent.wait()
    wait_for(lambda: all(is_over(pid) for pid in workers))
    assert set(states_of(robot, store).values()) == {"new"}
    two_nodes.held.release()
    after = run(robot, tmp_path, workers=RayWorkers(RayConversion(address=two_nodes.address)))
    assert set(states_of(robot, store).values()) == {"converted"}
    assert after.left_behind == []


def test_finished_recordings_travel_through_s3(s3: Bucket, tmp_path: Path):  # noqa: F811
    robot = filmed_robot(tmp_path / "raw", 3)
    with ray_nodes() as nodes:
        nodes.add(environment=s3.server.environment)
        settings = RayConversion(address=nodes.address, store=f"{s3.uri}/staging")
        made = run(robot, tmp_path / "there", workers=RayWorkers(settings))
    assert set(made.states.values()) == {"converted"}
    assert files_of(made.store) == files_of(run(robot, tmp_path / "here", workers=1).store)
    assert [name for name, info in s3.server.fs().find(f"{s3.root}/staging", detail=True).items() if info["size"]] == []


def test_a_machine_that_is_not_of_the_cluster_converts_on_it(two_nodes: RayNodes, tmp_path: Path):  # noqa: F811
    robot = filmed_robot(tmp_path / "raw", 2)
    made = run(robot, tmp_path, workers=RayWorkers(RayConversion(address=two_nodes.client_address)))
    assert made.states == {"0.hdf5": "converted", "1.hdf5": "converted"}
    write_held(tmp_path / "raw/2.hdf5")
    two_nodes.held.hold("2.hdf5")
    with closing(events_of(RayWorkers(RayConversion(address=two_nodes.client_address)), robot, made.store)) as events:
        next(event for event in events if isinstance(event, Frames) and event.frames)
    two_nodes.held.release()
    assert made.left_behind == []
    assert states_of(robot, made.store)["2.hdf5"] == "new"


def test_a_recording_that_a_node_does_not_see_is_lost_and_not_in_quarantine(two_nodes: RayNodes, tmp_path: Path):  # noqa: F811
    robot, store = filmed_robot(tmp_path / "raw", 2), RobotStore.of("arm", tmp_path)
    todo = make_plan(robot, store).todo
    (tmp_path / "raw/0.hdf5").rename(tmp_path / "away.hdf5")
    workers = RayWorkers(RayConversion(address=two_nodes.address))
    outcomes = [e for e in workers.convert(todo, spec=robot.spec, store=store.root) if not isinstance(e, Frames)]
    (lost,) = [event for event in outcomes if isinstance(event, Lost)]
    assert f"does not see {tmp_path}/raw/0.hdf5" in lost.reason
    assert os.uname().nodename in lost.reason
    assert [event.recording for event in outcomes if isinstance(event, Conversion)] == ["1.hdf5"]
    assert store.read_quarantine("0.hdf5") is None


def test_a_node_with_another_version_is_refused_with_both(tmp_path: Path):
    robot, store = filmed_robot(tmp_path / "raw", 1), RobotStore.of("arm", tmp_path)
    other = tmp_path / "site" / "vla_ops-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: vla-ops\nVersion: 9.9.9\n")
    paths = [str(other.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with ray_nodes(cpus=0) as nodes:
        nodes.add(environment={"PYTHONPATH": os.pathsep.join(paths)})
        with pytest.raises(ClusterError) as refused:
            list(events_of(RayWorkers(RayConversion(address=nodes.address)), robot, store))
    assert "vla_ops 9.9.9 and not 0.1.0" in str(refused.value)
    assert states_of(robot, store) == {"0.hdf5": "new"}


def test_a_cluster_without_a_node_that_is_large_enough_is_refused(two_nodes: RayNodes, tmp_path: Path):  # noqa: F811
    robot, store = filmed_robot(tmp_path / "raw", 1), RobotStore.of("arm", tmp_path)
    workers = RayWorkers(RayConversion(address=two_nodes.address, cpus=64, wait_for_node_s=0))
    # By default it waits for a minute, and tells so every second.
    heard: list[Event] = []
    with pytest.raises(ClusterError) as refused, closing(events_of(workers, robot, store)) as events:
        heard.extend(events)
    assert heard == []
    assert all(word in str(refused.value) for word in (two_nodes.address, "2 node(s) of 1, 1 cores", "one of 64", "conversion.ray.cpus"))


def test_the_command_line_converts_on_a_cluster(two_nodes: RayNodes, tmp_path: Path):  # noqa: F811
    aloha = Path(__file__).parents[3] / "robots/aloha_sim"
    environment = {**os.environ, "VLA_OPS_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "vla_ops.cli", "convert", str(aloha), "--ray", two_nodes.address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("episode(s)") == 6
