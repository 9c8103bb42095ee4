"""`vla-ops inspect` of a URI: what is looked at is fetched, nothing is left behind, and the drafted YAML names the store."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from vla_ops.cli import Inspect
from vla_ops.errors import OutOfReachError
from vla_ops_tests.recordings.hdf5_files import write_aloha
from vla_ops_tests.services.http import HttpServer


def test_a_uri_is_inspected_like_a_file(
    http: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (http.folder / "day1").mkdir()
    written = write_aloha(http.folder / "day1/a.hdf5", frames=300)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert Inspect(f"{http.uri}/day1/a.hdf5").run() == 0
    said = capsys.readouterr().out
    assert "/observations/qpos" in said
    assert f"uri: {http.uri}/day1" in said.replace('"', "")
    assert http.sent_bytes < 0.5 * written.path.stat().st_size
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_not_there_is_said_with_its_uri(http: HttpServer) -> None:
    with pytest.raises(OutOfReachError, match="moved or removed") as error:
        Inspect(f"{http.uri}/none.mcap").run()
    assert f"{http.uri}/none.mcap" in str(error.value)
