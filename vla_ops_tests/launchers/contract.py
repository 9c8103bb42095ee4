"""What every launcher must do: its tests subclass `LauncherContract` and say how to make one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_ops.errors import TrainingError
from vla_ops.launchers import Job, Launcher

_DEADLINE_S = 200
# A trainer in small: it says that it is there, and on SIGTERM takes a moment, saves and ends with the code of a shell.
SAVES = """
import signal, sys, time, pathlib
def save(number, frame):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1], 'saved').write_text('saved')
    print('saved', flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print('ready', flush=True)
while True: time.sleep(0.05)
"""
# One that does not listen, with a worker of its own.
DEAF = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))
worker = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)'])
pathlib.Path(sys.argv[1], 'worker').write_text(str(worker.pid))
print('ready', flush=True)
time.sleep(300)
"""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def wait_for(due: Callable[[], object]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not due():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def end_of(job: Job) -> int:
    wait_for(lambda: job.poll() is not None)
    code = job.poll()
    assert code is not None
    return code


class LauncherContract:
    """Subclasses override `launcher`."""

    # How `launcher` is made in another process.
    MADE_BY = ""

    @pytest.fixture
    def launcher(self) -> Launcher:
        raise NotImplementedError

    @pytest.mark.parametrize("code", [0, 1, 2, 143])
    def test_the_exit_code_is_the_commands(self, launcher: Launcher, tmp_path: Path, code: int) -> None:
        with launcher.start(python(f"raise SystemExit({code})"), log=tmp_path / "log.txt") as job:
            assert end_of(job) == code
            assert job.poll() == code

    def test_a_command_that_a_signal_ends_has_the_code_of_a_shell(self, launcher: Launcher, tmp_path: Path) -> None:
        with launcher.start(python("import os; os.kill(os.getpid(), 9)"), log=tmp_path / "log.txt") as job:
            assert end_of(job) == 137

    def test_both_outputs_are_kept_in_order_and_shown_line_by_line(self, launcher: Launcher, tmp_path: Path) -> None:
        loop = "for k in range(3):\n    print('out', k, flush=True); print('err', k, file=sys.stderr, flush=True)"
        code = f"import sys\n{loop}\nprint(end='half a line')"
        log, shown = tmp_path / "run" / "log.txt", list[str]()
        log.parent.mkdir()
        log.write_text("of the last time\n")
        with launcher.start(python(code), log=log, echo=shown.append) as job:
            assert end_of(job) == 0
        said = [f"{where} {k}" for k in range(3) for where in ("out", "err")] + ["half a line"]
        assert lines_of(log) == ["of the last time", *said]
        assert shown == said

    def test_lines_are_shown_while_the_command_runs(self, launcher: Launcher, tmp_path: Path) -> None:
        shown: list[str] = []
        with launcher.start(python(SAVES, tmp_path), log=tmp_path / "log.txt", echo=shown.append) as job:
            wait_for(lambda: "ready" in shown)
            assert job.poll() is None

    def test_the_environment_is_this_one_and_what_is_added(
        self, launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OF_THIS_PROCESS", "here")
        code = "import os; print(os.environ['OF_THIS_PROCESS'], os.environ['ADDED'])"
        with launcher.start(python(code), log=tmp_path / "log.txt", env={"ADDED": "there"}) as job:
            assert end_of(job) == 0
        assert lines_of(tmp_path / "log.txt") == ["here there"]

    def test_a_job_that_is_stopped_may_save_first(self, launcher: Launcher, tmp_path: Path) -> None:
        with launcher.start(python(SAVES, tmp_path), log=tmp_path / "log.txt") as job:
            wait_for(lambda: "ready" in lines_of(tmp_path / "log.txt"))
            assert job.stop() == 143
        assert (tmp_path / "saved").exists()
        assert lines_of(tmp_path / "log.txt") == ["ready", "saved"]

    def test_a_job_that_is_over_is_not_stopped(self, launcher: Launcher, tmp_path: Path) -> None:
        with launcher.start(python("pass"), log=tmp_path / "log.txt") as job:
            assert end_of(job) == 0
            assert job.stop() == 0

    def test_a_job_that_does_not_end_is_killed_with_all_it_started(self, launcher: Launcher, tmp_path: Path) -> None:
        with launcher.start(python(DEAF, tmp_path), log=tmp_path / "log.txt") as job:
            wait_for(lambda: "ready" in lines_of(tmp_path / "log.txt"))
            worker = int((tmp_path / "worker").read_text())
            assert job.stop(limit_s=0.5) == 137
        wait_for(lambda: is_over(worker))

    def test_leaving_the_context_stops_the_job(self, launcher: Launcher, tmp_path: Path) -> None:
        def watch() -> None:
            with launcher.start(python(SAVES, tmp_path), log=tmp_path / "log.txt"):
                wait_for(lambda: "ready" in lines_of(tmp_path / "log.txt"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            watch()
        assert (tmp_path / "saved").exists()

    def test_an_interrupt_while_a_job_is_stopped_kills_it(self, launcher: Launcher, tmp_path: Path) -> None:
        def interrupt() -> None:
            wait_for(lambda: "asked" in lines_of(tmp_path / "log.txt"))
            os.kill(os.getpid(), signal.SIGINT)

        with launcher.start(python(DEAF, tmp_path), log=tmp_path / "log.txt") as job:
            wait_for(lambda: "ready" in lines_of(tmp_path / "log.txt"))
            interrupting = threading.Thread(target=interrupt)
            interrupting.start()
            with pytest.raises(KeyboardInterrupt):
                job.stop(limit_s=3600)
            interrupting.join()
            assert job.poll() == 137

    def test_a_signal_to_the_terminal_reaches_only_the_launcher(self, launcher: Launcher, tmp_path: Path) -> None:
        with launcher.start(python("import os; print(os.getpgid(0))"), log=tmp_path / "log.txt") as job:
            assert end_of(job) == 0
        assert lines_of(tmp_path / "log.txt") != [str(os.getpgid(0))]

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
    # The thread that started the job may end long before the job does.
    @pytest.mark.parametrize("started", ["start()", "thread = threading.Thread(target=start); thread.start(); thread.join()"])
    def test_a_launcher_that_is_killed_leaves_a_job_that_saves_and_ends(self, launcher: Launcher, tmp_path: Path, started: str) -> None:
        start = "def start(): launcher.start(sys.argv[2:], log=pathlib.Path(sys.argv[1]))"
        code = f"import pathlib, sys, threading, time\n{self.MADE_BY}\n{start}\n{started}\ntime.sleep(300)"
        log = tmp_path / "log.txt"
        parent = subprocess.Popen(python(code, log, *python(SAVES, tmp_path)))
        try:
            wait_for(lambda: "ready" in lines_of(log))
            time.sleep(0.5)
            assert not (tmp_path / "saved").exists()
        finally:
            parent.kill()
            parent.wait()
        wait_for((tmp_path / "saved").exists)
        wait_for(lambda: lines_of(log) == ["ready", "saved"])

    def test_a_command_that_cannot_be_started_says_so(self, launcher: Launcher, tmp_path: Path) -> None:
        with launcher.start([str(tmp_path / "nothing")], log=tmp_path / "log.txt") as job:
            assert end_of(job) == 127
        assert "cannot be started: No such file" in lines_of(tmp_path / "log.txt")[0]

    def test_a_log_that_cannot_be_written_is_named(self, launcher: Launcher, tmp_path: Path) -> None:
        (tmp_path / "log.txt").mkdir()
        with pytest.raises(TrainingError, match=r"cannot be started.*log\.txt"):
            launcher.start(python("pass"), log=tmp_path / "log.txt")
