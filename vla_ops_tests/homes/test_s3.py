"""A home in a real S3 server: the contract, machines that are killed, a server that is, and what is said where it cannot be reached."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vla_ops.errors import PublishError
from vla_ops.home import home
from vla_ops.homes.at_home import at_home, robot_home
from vla_ops.homes.needs import data
from vla_ops.homes.robot_home import RobotHome
from vla_ops.publishing.stores import store_at
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.homes.contract import HomeContract
from vla_ops_tests.homes.machines import Machine
from vla_ops_tests.publishing.stores.contract import content_of
from vla_ops_tests.services.s3 import Bucket

pytest.importorskip("s3fs", reason="s3fs is not installed: uv sync --extra s3")
pytestmark = pytest.mark.services

_PROGRAM = """
import sys
from pathlib import Path
from vla_ops.homes.needs import everything
from vla_ops.homes.robot_home import RobotHome
from vla_ops.publishing.stores import store_at

home = RobotHome(store_at(sys.argv[1]), Path(sys.argv[2]), say=lambda line: print(line, flush=True))
home.send() if sys.argv[3] == "send" else home.fetch(everything)
"""


class TestInS3(HomeContract):
    @pytest.fixture
    def store(self, s3: Bucket) -> Store:
        return store_at(f"{s3.uri}/arm")


@contextmanager
def started(bucket: Bucket, root: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that fetches or sends, when it has begun to."""
    command = [sys.executable, "-c", _PROGRAM, f"{bucket.uri}/arm", str(root), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        # It says nothing where the one before was killed when all was done.
        assert not said or ("sending" if what == "send" else "fetching") in said, said + process.stdout.read()
        yield process


def recordings(machine: Machine, take: int) -> None:
    """Some of many small files, and one of several parts."""
    for k in range(20):
        machine.convert(f"{k}.mcap", f"take {take}")
    video = machine.root / "episodes/0.mcap/0/cam_high.mp4"
    video.write_bytes(content_of(40 << 20, seed=take))


def bytes_of(machine: Machine) -> dict[str, bytes]:
    found = (path for path in machine.root.rglob("*") if path.is_file() and ".home" not in path.parts and path.name != ".lock")
    return {path.relative_to(machine.root).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("what", ["send", "fetch"])
def test_one_that_is_killed_again_and_again_ends_with_all_of_it_and_nobody_sees_half(s3: Bucket, tmp_path: Path, what: str) -> None:
    store = store_at(f"{s3.uri}/arm")
    one, other = Machine(store, tmp_path / "one"), Machine(store, tmp_path / "other")
    recordings(one, take=1)
    before: dict[str, bytes] = {}
    if what == "fetch":
        one.send()
    killed = 0
    for wait_s in (0.0, 0.05, 0.1, 0.2, 0.3):
        with started(s3, (one if what == "send" else other).root, what) as process:
            time.sleep(wait_s)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            killed += 1
        if what == "send":
            other.fetch()
            assert bytes_of(other) in (before, bytes_of(one))
    assert killed > 0
    one.send()
    other.fetch()
    assert bytes_of(other) == bytes_of(one)


def step(root: Path, name: str, *, fails: bool = False) -> None:
    """A step at home that puts a recording into quarantine, and may then fail."""
    with at_home({"arm": data}, lambda _: None):
        (root / "quarantine").mkdir(parents=True, exist_ok=True)
        (root / f"quarantine/{name}.json").write_text("{}")
        if fails:
            raise RuntimeError("a camera is broken")


def test_a_step_at_home_is_known_to_another_machine_and_its_failure_loses_nothing(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", s3.uri)
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "one"))
    assert home() == tmp_path / "one"
    step(home() / "arm", "a")
    with pytest.raises(RuntimeError, match="a camera is broken"):
        step(home() / "arm", "b", fails=True)
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "other"))
    step(home() / "arm", "c")
    assert {file.name for file in (home() / "arm/quarantine").iterdir()} == {"a.json", "b.json", "c.json"}


def test_where_the_home_cannot_be_reached_nothing_is_begun_and_it_says_why(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", s3.uri)
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "copy"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-and-wrong")
    with pytest.raises(PublishError) as refused:
        step(home() / "arm", "a")
    assert "AWS_SECRET_ACCESS_KEY" in str(refused.value)
    assert "planted-and-wrong" not in str(refused.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.server.environment["AWS_SECRET_ACCESS_KEY"])
    monkeypatch.setenv("VLA_OPS_HOME", "s3://no-such-bucket-anywhere/home")
    with pytest.raises(PublishError, match="no-such-bucket-anywhere"):
        step(home() / "arm", "a")
    assert not (home() / "arm/quarantine").exists()


def test_what_could_not_be_sent_after_a_step_that_failed_is_said_with_its_error_and_sent_by_the_next(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", s3.uri)
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "copy"))
    step(home() / "arm", "a")
    with monkeypatch.context() as full:
        full.setattr(RobotHome, "send", _refused)
        with pytest.raises(RuntimeError, match="a camera is broken") as failed:
            step(home() / "arm", "b", fails=True)
    assert "on this machine only: no space left there. Then send it: vla-ops home send arm" in "".join(failed.value.__notes__)
    found = robot_home("arm", lambda _: None)
    assert found is not None
    assert found.standing().joined.mine == ("quarantine/b.json",)
    assert found.send().units == ("quarantine/b.json",)


def _refused(_: RobotHome) -> None:
    raise PublishError("no space left there.")


def test_a_home_in_s3_has_a_copy_of_its_own_below_the_users_data(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    copies = set()
    for prefix in ("one", "two"):
        monkeypatch.setenv("VLA_OPS_HOME", f"{s3.uri}/{prefix}/")
        found = robot_home("arm", lambda _: None)
        assert found is not None
        assert found.root.is_relative_to(tmp_path / "vla_ops/homes")
        copies.add(found.root)
    assert len(copies) == 2
