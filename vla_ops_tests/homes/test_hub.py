"""A home in a repository on the Hub: the contract, how many commits it takes, machines that are killed, and a Hub that refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web

from vla_ops.errors import HomeError, PublishError
from vla_ops.home import home
from vla_ops.homes.at_home import at_home
from vla_ops.homes.blobs import blob_name
from vla_ops.homes.needs import data
from vla_ops.homes.there import there_in
from vla_ops.publishing.hub import additions
from vla_ops.publishing.hub.store import HubStore
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.homes.contract import HomeContract
from vla_ops_tests.homes.machines import Machine
from vla_ops_tests.publishing.stores.contract import PART, content_of
from vla_ops_tests.services.hub import HubServer, Repo, Trouble

URI = "hf://datasets/lab/home"

pytestmark = pytest.mark.usefixtures("impatient_hub")

_PROGRAM = """
import sys
from pathlib import Path
from vla_ops.homes.needs import everything
from vla_ops.homes.robot_home import RobotHome
from vla_ops.publishing.hub.store import HubStore

home = RobotHome(HubStore(sys.argv[1]), Path(sys.argv[2]), say=print)
home.send() if sys.argv[3] == "send" else home.fetch(everything)
"""


class TestOnTheHub(HomeContract):
    @pytest.fixture
    def store(self, hub: HubServer) -> Store:
        assert hub.endpoint
        return HubStore(f"{URI}/arm")


@pytest.fixture
def repo(hub: HubServer) -> Repo:
    """An empty one."""
    return hub.make("lab/home", "dataset")


def machine(folder: Path, name: str) -> Machine:
    """With a store of its own, as a machine has it."""
    return Machine(HubStore(f"{URI}/arm"), folder / name)


def bytes_of(machine: Machine) -> dict[str, bytes]:
    found = (path for path in machine.root.rglob("*") if path.is_file() and ".home" not in path.parts and path.name != ".lock")
    return {path.relative_to(machine.root).as_posix(): path.read_bytes() for path in found}


def test_a_send_is_two_commits_however_many_files_it_has(repo: Repo, tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    counts = [len(repo.commits)]
    for k in range(30):
        one.convert(f"{k}.mcap")
    one.train("run1", 100)
    one.send()
    counts.append(len(repo.commits))
    one.send()
    other.fetch()
    counts.append(len(repo.commits))
    (other.root / "episodes/3.mcap/0/cam_high.mp4").write_text("a new picture")
    other.send()
    counts.append(len(repo.commits))
    assert [after - before for before, after in pairwise(counts)] == [2, 0, 2]


def test_a_fetch_asks_the_api_little_however_many_files_it_brings(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    for k in range(30):
        one.convert(f"{k}.mcap")
    one.send()
    hub.asked.clear()
    other.fetch()
    assert other.files == one.files
    assert len(repo.head.tree) > len(one.files)
    assert sum("/api/" in line for line in hub.asked) <= 3
    # Each content once, the pointer and the state, and both again when it is looked whether that was all.
    assert sum("/resolve/" in line for line in hub.asked) <= len(one.files) + 4


def test_much_is_sent_by_several_commits_and_seen_at_once(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "_COMMIT_FILES", 4)
    one = machine(tmp_path, "one")
    for k in range(3):
        one.convert(f"{k}.mcap")
    one.send()
    # 15 files and a state by four commits, and the pointer.
    assert len(repo.commits) == 1 + 4 + 1
    assert ["arm/state.json" in commit.tree for commit in repo.commits.values()] == [*[False] * 5, True]


def test_large_files_come_along_and_what_of_them_was_damaged_there_is_mended(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    one.write("episodes/a.mcap/recording.json")
    video = one.write("episodes/a.mcap/0/cam_high.mp4")
    video.write_bytes(content_of(PART + 5))
    one.send()
    kept = there_in(one.store).state.files["episodes/a.mcap/0/cam_high.mp4"]
    name, tree = f"arm/blobs/{blob_name(kept.sha256)}", dict(repo.head.tree)
    for found in (hub.add(b"x" * kept.size), None):
        changed = {path: blob for path, blob in tree.items() if path != name} | ({} if found is None else {name: found})
        repo.commit(changed, "main", "damage")
        with pytest.raises(HomeError, match=rf"{'has another content' if found else 'is missing'}.*{name}.*vla-ops home mend arm"):
            other.fetch()
        assert other.files == {}
        done, lost = one.home.mend()
        assert (len(done.units), lost) == (1, [])
    other.fetch()
    assert bytes_of(other) == bytes_of(one)


def test_a_repository_that_was_begun_anew_removes_nothing_and_is_joined(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    one.convert("a.mcap")
    one.send()
    files = one.files
    hub.repos.clear()
    for call in (one.fetch, one.send):
        with pytest.raises(HomeError, match=r"the home is not what it was.*vla-ops home join arm"):
            call()
    assert one.files == files
    one.home.join()
    one.send()
    other.fetch()
    assert other.files == files
    assert hub.repo("lab/home", "dataset").private
    assert repo is not hub.repo("lab/home", "dataset")


def test_robots_in_one_repository_send_at_once_and_lose_nothing(repo: Repo, tmp_path: Path) -> None:
    robots = [Machine(HubStore(f"{URI}/robot{k}"), tmp_path / f"machine{k}") for k in range(4)]
    for k, each in enumerate(robots):
        each.convert(f"{k}.mcap")
    with ThreadPoolExecutor(len(robots)) as pool:
        list(pool.map(Machine.send, robots))
    assert sum(path.endswith("/state.json") for path in repo.head.tree) == len(robots)
    for k, each in enumerate(robots):
        again = Machine(HubStore(f"{URI}/robot{k}"), tmp_path / f"again{k}")
        again.fetch()
        assert again.files == each.files


@pytest.mark.parametrize("which", ["GET", "/preupload/", "/batch", "PUT", "/verify", "/commit/"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_in_the_middle_of_a_send_is_waited_for(
    hub: HubServer, repo: Repo, tmp_path: Path, which: str, status: int
) -> None:
    one, other, left = machine(tmp_path, "one"), machine(tmp_path, "other"), [2]

    def trouble(method: str, path: str) -> Trouble:
        if which not in f"{method} {path}" or not left[0]:
            return None
        left[0] -= 1
        return web.json_response({"error": "busy"}, status=status, headers={"Retry-After": "2"} if status == 429 else {})

    one.convert("a.mcap")
    hub.trouble = trouble
    one.send()
    assert left == [0]
    other.fetch()
    assert other.files == one.files
    assert len(repo.commits) == 3


def test_what_a_hub_that_stays_broken_has_is_gone_on_with(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    one.write("episodes/a.mcap/recording.json").write_bytes(b"\0" + content_of(1000))
    hub.trouble = lambda _, path: web.json_response({"error": "out of order"}, status=503) if "/commit/" in path else None
    with pytest.raises(PublishError, match=r"the Hub is too busy, or broken.*503: out of order.*Run the same again"):
        one.send()
    other.fetch()
    assert other.files == {}
    hub.trouble = lambda *_: None
    hub.asked.clear()
    one.send()
    # But for the state, which says when it was made after what.
    assert sum(line.startswith("PUT") for line in hub.asked) <= 1
    other.fetch()
    assert bytes_of(other) == bytes_of(one)
    assert len(repo.commits) == 3


type Moment = tuple[str, int, str]


def killed(hub: HubServer, root: Path, what: str, moment: Moment) -> None:
    """Let a process of its own fetch or send, and kill it at its so-manyth request of a kind, `done` or not."""
    at, left, is_done = moment[0], [moment[1]], moment[2] == "done"

    def trouble(method: str, path: str) -> Trouble:
        left[0] -= at in f"{method} {path}"
        if at not in f"{method} {path}" or left[0] > 0:
            return None
        if is_done and left[0] == 0:
            return True  # The answer is lost: it dies when it asks again.
        os.kill(process.pid, signal.SIGKILL)
        return web.Response(status=503)

    hub.trouble = trouble
    command = [sys.executable, "-c", _PROGRAM, f"{URI}/arm", str(root), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
    hub.trouble = lambda *_: None
    assert process.returncode == -signal.SIGKILL, said


def recordings(machine: Machine) -> None:
    """Some, of small texts and of what the Hub keeps apart from git."""
    for k in range(5):
        machine.convert(f"{k}.mcap")
        machine.write(f"episodes/{k}.mcap/0/cam_low.mp4").write_bytes(b"\0" + content_of(1000, seed=k))


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [("PUT", 1, ""), ("PUT", 3, "done"), ("/commit/", 1, ""), ("/commit/", 1, "done"), ("/commit/", 2, ""), ("/commit/", 2, "done")],
    ids=lambda moment: " ".join(map(str, moment)),
)
def test_a_send_that_is_killed_is_seen_whole_or_not_at_all_and_the_next_one_ends_it(
    hub: HubServer, repo: Repo, tmp_path: Path, moment: Moment
) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    recordings(one)
    killed(hub, one.root, "send", moment)
    other.fetch()
    # The second commit is that of the pointer.
    assert bytes_of(other) == (bytes_of(one) if moment == ("/commit/", 2, "done") else {})
    one.send()
    other.fetch()
    assert bytes_of(other) == bytes_of(one)
    assert len(repo.commits) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3, 20])
@pytest.mark.usefixtures("repo")
def test_a_fetch_that_is_killed_is_gone_on_with(hub: HubServer, tmp_path: Path, number: int) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    recordings(one)
    one.send()
    killed(hub, other.root, "fetch", ("/resolve/", number, ""))
    assert bytes_of(other) == {}
    other.fetch()
    assert bytes_of(other) == bytes_of(one)


def step(root: Path, name: str) -> None:
    """A step at home that puts a recording into quarantine."""
    with at_home({"arm": data}, lambda _: None):
        (root / "quarantine").mkdir(parents=True, exist_ok=True)
        (root / f"quarantine/{name}.json").write_text("{}")


def test_a_step_at_home_is_known_to_another_machine(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", f"{URI}/of/the/lab/")
    for name in ("one", "other"):
        monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / name))
        step(home() / "arm", name)
    assert {file.name for file in (home() / "arm/quarantine").iterdir()} == {"one.json", "other.json"}
    assert "of/the/lab/arm/state.json" in hub.repo("lab/home", "dataset").head.tree


@pytest.mark.parametrize(
    ("token", "said"), [("hf_planted", "the Hub does not know the token.*HF_TOKEN"), ("", "there is no token for the Hub.*HF_TOKEN")]
)
@pytest.mark.usefixtures("repo")
def test_with_a_wrong_token_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, said: str) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", URI)
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "copy"))
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PublishError, match=said) as refused:
        step(home() / "arm", "a")
    assert "planted" not in str(refused.value)
    assert not (home() / "arm/quarantine").exists()


def test_in_a_public_repository_nothing_is_begun(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.make("lab/home", "dataset", private=False)
    monkeypatch.setenv("VLA_OPS_HOME", URI)
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "copy"))
    with pytest.raises(PublishError, match="the repository is public"):
        step(home() / "arm", "a")
    assert not (home() / "arm/quarantine").exists()
