"""The exports of a training's last run: made once, and only of what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vla_ops.errors import CheckpointError, ParityError
from vla_ops.export import refresh
from vla_ops.export.refresh import refresh_exports
from vla_ops.spec.training import ExportSpec
from vla_ops.training.run import Run
from vla_ops_tests.export.small_export import make_run

FLOAT32 = ExportSpec(layouts=["openpi"], dtype="float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("refresh"))


def test_an_export_is_made_once_and_names_what_it_is_of(run: Run) -> None:
    said: list[str] = []
    (made,) = refresh_exports(run.home, "arm", "small", FLOAT32, say=said.append)
    assert made.folder == run.home / "arm/exports/small/first-7-openpi-float32"
    assert made.checkpoint == run.folder / "7"
    assert made.parity["passes"]
    assert made.picture.read_bytes().startswith(b"\x89PNG")
    assert made.size_bytes > (made.folder / "model.safetensors").stat().st_size
    weights = (made.folder / "model.safetensors").stat().st_mtime_ns
    (again,) = refresh_exports(run.home, "arm", "small", FLOAT32, say=said.append)
    assert (again, (again.folder / "model.safetensors").stat().st_mtime_ns) == (made, weights)
    assert said[-1] == f"nothing to do: {made.folder} is there and has passed the gate"


def test_the_version_is_of_layout_and_dtype_and_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(asked: ExportSpec) -> list[str]:
        return [made.version for made in refresh_exports(run.home, "arm", "small", asked, say=lambda _: None)]

    monkeypatch.setattr(refresh, "export", lambda *_, **__: None)
    both = version(ExportSpec(layouts=["openpi", "lerobot"], dtype="float32"))
    assert len(set(both)) == 2
    assert version(FLOAT32) == both[:1]
    assert version(ExportSpec(layouts=["openpi"])) != both[:1]
    shutil.copytree(run.folder / "7", run.folder / "0")
    assert version(FLOAT32) == both[:1]
    (run.folder / "best.json").write_text(json.dumps({"step": 0}))
    assert version(FLOAT32) != both[:1]
    (run.folder / "best.json").unlink()
    shutil.rmtree(run.folder / "0")


def test_nothing_is_left_of_an_export_that_fails_the_gate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ops.export.parity.LIMITS", {"float32": 0.0, "bfloat16": 0.0})
    asked = ExportSpec(layouts=["openpi"], dtype="bfloat16")
    with pytest.raises(ParityError, match="do not compute the same"):
        refresh_exports(run.home, "arm", "small", asked, say=lambda _: None)
    left = {path.name for path in (run.home / "arm/exports/small").iterdir()}
    assert not [name for name in left if "bfloat16" in name]


def test_without_a_checkpoint_it_says_what_to_run(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint yet.*arm_train.*vla-ops train arm small"):
        refresh_exports(tmp_path, "arm", "small", FLOAT32, say=lambda _: None)
