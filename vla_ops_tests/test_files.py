from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vla_ops.errors import AlignmentError, StoreError
from vla_ops.files import only_one, replacing, sweep, write_json


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    with pytest.raises(RuntimeError), replacing(target) as work:  # noqa: PT012 - the error has to come after half of the work
        work.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with replacing(target) as work:
        work.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"


def test_a_folder_replaces_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "episodes"
    for text in ("one", "two"):
        with replacing(target) as work:
            work.mkdir()
            (work / "f").write_text(text)
    assert (target / "f").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["episodes"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_works_on_is_not(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from vla_ops.files import replacing
with replacing(Path({str(tmp_path)!r}) / "x") as work:
    work.mkdir(); print("ready", flush=True); time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert sweep(tmp_path) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(sweep(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_of_another_machine_left_is_swept_after_a_day(tmp_path: Path) -> None:
    work = tmp_path / "x.tmp-1-abcd-another-robot"
    work.mkdir()
    assert sweep(tmp_path) == []
    os.utime(work, (0, 0))
    assert sweep(tmp_path) == [work]
    assert not work.exists()


def test_the_second_process_waits_for_the_first_and_says_who_it_is(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from vla_ops.files import only_one
with only_one(Path({str(tmp_path)!r}), print):
    print("ready", flush=True); time.sleep(60)
"""
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "ready\n"
    said: list[str] = []

    def waiting(who: str) -> None:
        said.append(who)
        # Killed, not asked: the hold goes with the process.
        first.kill()

    with only_one(tmp_path, waiting):
        assert len(said) == 1
        assert said[0].startswith(f"process {first.pid} on ")
    first.wait()
    first.stdout.close()


def test_a_full_disk_is_a_store_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the store is full.*MB free.*VLA_OPS_HOME"), replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to the store"):
        write_json(tmp_path / "file" / "x.json", {})


def test_a_recording_that_cannot_be_read_is_not_the_stores_fault(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), replacing(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/recording.mcap")


def test_errors_say_what_where_the_two_values_and_what_to_do() -> None:
    error = AlignmentError("a gap", stream="/arm", found="800 ms", expected="200 ms", todo="Split.").at(file="0.mcap", stream="/other")
    assert str(error) == "a gap [file 0.mcap, stream /arm]; found 800 ms; expected 200 ms. Split."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


def test_json_with_nan_is_refused_rather_than_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"mean": float("nan")})
    assert list(tmp_path.iterdir()) == []
