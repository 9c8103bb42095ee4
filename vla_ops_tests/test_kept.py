"""Folders of a cache that a process has asked for stay while it lives; of the rest the oldest go first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vla_ops.errors import SpecError
from vla_ops.kept import folders_in, hold, hold_around, hold_until_exit, limit_bytes, trim


def add(cache: Path, name: str, *, used_s: float = 0.0) -> Path:
    """A folder of 8 kB that was last used then."""
    folder = cache / name
    hold(folder).close()
    (folder / "content").write_bytes(b"x" * 8192)
    os.utime(folder / ".in_use", (used_s, used_s))
    return folder


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    folders = [add(tmp_path, name, used_s=at) for name, at in (("new", 30), ("old", 10), ("middle", 20))]
    assert trim(folders_in(tmp_path), 20_000) == [folders[1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "new"]


def test_a_process_keeps_what_it_holds_until_it_ends(tmp_path: Path) -> None:
    folder = add(tmp_path, "used")
    code = "import sys; from pathlib import Path; from vla_ops.kept import hold_until_exit; hold_until_exit(Path(sys.argv[1])); "
    code += "print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert trim([folder], 0) == []
        process.kill()
        process.wait()
    assert trim([folder], 0) == [folder]


def test_a_folder_that_was_removed_and_made_again_is_held_again(tmp_path: Path) -> None:
    folder = add(tmp_path, "used")
    hold_until_exit(folder)
    shutil.rmtree(folder)
    add(tmp_path, "used")
    assert trim([folder], 0) == [folder]
    add(tmp_path, "used")
    hold_until_exit(folder)
    assert trim([folder], 0) == []


@pytest.mark.parametrize(("value", "expected"), [("", 5 * 10**9), ("0.5", 5 * 10**8), ("0", 0)])
def test_a_limit_is_in_gigabytes(monkeypatch: pytest.MonkeyPatch, value: str, expected: int) -> None:
    monkeypatch.setenv("SOME_LIMIT", value)
    assert limit_bytes("SOME_LIMIT", 5.0) == expected


def test_a_limit_that_is_no_size_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_LIMIT", "much")
    with pytest.raises(SpecError, match=r"SOME_LIMIT is not a size.*much"):
        limit_bytes("SOME_LIMIT", 5.0)


def test_a_path_within_a_folder_of_a_cache_holds_it(tmp_path: Path) -> None:
    folder = add(tmp_path, "used")
    (folder / "content").unlink()
    (folder / "content/params").mkdir(parents=True)
    hold_around(folder / "content/params")
    hold_around(tmp_path / "of no cache")
    assert trim([folder], 0) == []


def test_what_was_half_removed_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".removed-1-2").mkdir()
    assert trim([add(tmp_path, "old")], 0) != []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_cache_that_may_only_be_read_is_held_too(tmp_path: Path) -> None:
    folder = add(tmp_path, "of root")
    for path in (folder, *folder.parents):
        if Path(tempfile.gettempdir()) in path.parents:
            path.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            hold_until_exit(folder)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
