from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vla_ops.errors import StoreError, VlaOpsError
from vla_ops.spec.training import MetricsSpec
from vla_ops.training.metrics import METRICS_FILE, Meter, Metrics, memory_use, read_metrics
from vla_ops.training.sinks import WANDB_ID_FILE, WandbSink, open_sinks, wandb_problem

PNG = b"\x89PNG\r\n\x1a\n"


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[int, str, bytes]] = []
        self.closed: list[BaseException | None] = []

    def scalars(self, step: int, values: Any) -> None:
        self.lines.append((step, dict(values)))

    def picture(self, step: int, name: str, file: Path) -> None:
        self.pictures.append((step, name, file.read_bytes()))

    def close(self, error: BaseException | None) -> None:
        self.closed.append(error)


def steps_of(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run)]


def test_each_line_is_on_disk_when_log_returns(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.log(3, {"loss": 0.5})
        (line,) = read_metrics(tmp_path)
        assert (line["step"], line["loss"]) == (3, 0.5)
        assert abs(line["time"] - time.time()) < 60


def test_numbers_that_are_not_finite_are_null_and_sinks_see_them(tmp_path: Path) -> None:
    kept = Kept()
    with Metrics(tmp_path, sinks=[kept]) as metrics:
        metrics.log(0, {"loss": math.nan, "grad_norm": math.inf})
    assert json.loads((tmp_path / METRICS_FILE).read_text())["loss"] is None
    assert math.isnan(kept.lines[0][1]["loss"])


def test_a_resumed_run_drops_the_steps_it_takes_again(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        for step in (0, 10, 20, 30):
            metrics.log(step, {"loss": 1.0})
    with Metrics(tmp_path, first_step=20) as metrics:
        metrics.log(20, {"loss": 2.0})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(0, 1.0), (10, 1.0), (20, 2.0)]


def test_a_run_that_starts_anew_in_the_folder_drops_all(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.log(5, {"loss": 1.0})
    with Metrics(tmp_path):
        pass
    assert steps_of(tmp_path) == []


def test_a_torn_last_line_is_left_out_and_removed_on_resume(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.log(1, {"loss": 1.0})
    file = tmp_path / METRICS_FILE
    file.write_bytes(file.read_bytes() + b'{"step": 2, "lo')
    assert steps_of(tmp_path) == [1]
    with Metrics(tmp_path, first_step=2) as metrics:
        metrics.log(2, {"loss": 2.0})
    assert steps_of(tmp_path) == [1, 2]


def test_a_line_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\nhello\n')
    with pytest.raises(StoreError, match="line 2 is not a line of metrics"):
        read_metrics(tmp_path)


def test_a_killed_process_leaves_whole_lines_and_one_that_it_was_writing_is_left_out(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vla_ops.training.metrics import Metrics\n"
        "metrics = Metrics(Path(sys.argv[1])); step = 0\n"
        "while True:\n    metrics.log(step, {f'metric_{k}': 0.123456789 for k in range(100)}); step += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        until = time.monotonic() + 200
        while time.monotonic() < until and len(read_metrics(tmp_path)) < 50:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    steps = steps_of(tmp_path)
    assert len(steps) >= 50
    assert steps == list(range(len(steps)))
    # The kernel may be killed out of a write between two pages: the next one to write makes the file whole.
    Metrics(tmp_path, first_step=len(steps)).close()
    assert (tmp_path / METRICS_FILE).read_bytes().endswith(b"}\n")
    assert steps_of(tmp_path) == steps


def test_other_processes_of_a_run_write_nothing(tmp_path: Path) -> None:
    with Metrics(tmp_path / "run", writes=False) as metrics:
        metrics.log(1, {"loss": 1.0})
        assert metrics.picture(1, "cameras", PNG) is None
        assert metrics.curves(1) is None
    assert not (tmp_path / "run").exists()


def test_pictures_are_files_of_their_step_and_go_to_sinks(tmp_path: Path) -> None:
    kept = Kept()
    with Metrics(tmp_path, sinks=[kept]) as metrics:
        file = metrics.picture(20, "cameras", PNG)
        assert file is not None
        assert file.read_bytes() == PNG
        assert file.relative_to(tmp_path).as_posix() == "pictures/cameras_00000020.png"
    assert kept.pictures == [(20, "cameras", PNG)]


def test_curves_show_what_was_logged(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        assert metrics.curves(0) is None
        for step in range(5):
            metrics.log(step, {"loss": 1 / (step + 1)})
        metrics.log(5, {"validation/loss": 0.5})
        file = metrics.curves(5)
    assert file is not None
    assert file.read_bytes().startswith(PNG)


def test_the_error_that_ended_the_run_reaches_every_sink(tmp_path: Path) -> None:
    first, second = Kept(), Kept()
    error = ValueError("NaN")

    def fail() -> None:
        with Metrics(tmp_path, sinks=[first, second]):
            raise error

    with pytest.raises(ValueError, match="NaN"):
        fail()
    assert first.closed == second.closed == [error]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        full = os.open("/dev/full", os.O_WRONLY)
        assert metrics._file is not None
        os.dup2(full, metrics._file)
        os.close(full)
        with pytest.raises(StoreError, match="No space left"):
            metrics.log(1, {"loss": 1.0})


def test_a_meter_measures_from_lap_to_lap() -> None:
    meter = Meter(batch_size=8, step=0)
    time.sleep(0.02)
    lap = meter.lap(step=2, waited_s=0.0)
    assert 0 < lap["steps_per_s"] <= 100
    assert lap["samples_per_s"] == pytest.approx(8 * lap["steps_per_s"])
    assert lap["data_wait"] == 0
    assert meter.lap(step=2, waited_s=0.0) == {}
    time.sleep(0.02)
    assert meter.lap(step=3, waited_s=1000.0)["data_wait"] == 1


def test_a_meter_leaves_out_what_is_skipped() -> None:
    meter = Meter(batch_size=1, step=0)
    time.sleep(0.3)
    began = time.perf_counter()
    meter.skip(step=0, waited_s=0.3)
    rate = meter.lap(step=100, waited_s=0.3)["steps_per_s"]
    assert rate >= 100 / (time.perf_counter() - began)


def test_memory_of_this_process_is_known() -> None:
    assert memory_use()["host_peak_gb"] > 0.01


def test_nothing_is_opened_where_nothing_is_asked_for(tmp_path: Path) -> None:
    assert open_sinks(tmp_path, MetricsSpec(), name="run", config={}) == []


def without_login(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(folder / "netrc"))


needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed: uv sync --extra wandb")


def test_a_missing_package_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    sys.path_importer_cache.clear()
    assert "not installed" in (wandb_problem("offline") or "")
    with pytest.raises(VlaOpsError, match="not installed"):
        WandbSink(tmp_path, MetricsSpec(wandb="offline"), name="run", config={})
    assert wandb_problem("off") is None


@needs_wandb
def test_online_without_a_login_is_refused_and_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_login(monkeypatch, tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert "not logged in" in (wandb_problem("online") or "")
    assert wandb_problem("offline") is None
    with pytest.raises(VlaOpsError, match="WANDB_API_KEY"):
        WandbSink(tmp_path, MetricsSpec(wandb="online"), name="run", config={})
    # What is not loaded asks nobody.
    assert "wandb" not in sys.modules


@needs_wandb
def test_a_key_in_the_environment_or_a_netrc_of_the_host_is_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_login(monkeypatch, tmp_path)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password made-up\n")
    (tmp_path / "netrc").chmod(0o600)
    assert wandb_problem("online") is None
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com")
    assert "not logged in" in (wandb_problem("online") or "")
    monkeypatch.setenv("WANDB_API_KEY", "made-up")
    assert wandb_problem("online") is None


@needs_wandb
def test_an_offline_run_of_wandb_has_its_files_and_keeps_its_id_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_login(monkeypatch, tmp_path)
    spec = MetricsSpec(wandb="offline", project="arms")
    ids = []
    for first in (0, 2):
        with Metrics(tmp_path, first_step=first, sinks=open_sinks(tmp_path, spec, name="run", config={"seed_of_arm": 1})) as metrics:
            metrics.log(first, {"loss_of_arm": 1.0})
            metrics.log(first + 1, {"loss_of_arm": math.nan})
            metrics.picture(first, "cameras", png(8 + first))
        ids.append((tmp_path / WANDB_ID_FILE).read_text())
    assert ids[0] == ids[1]
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    # offline-run-DATE-ID; a second run of one second has its folder with -1 after it, or shares it.
    assert {run.name.split("-")[3] for run in runs} == {ids[0]}
    logs = [log.read_bytes() for run in runs for log in run.glob(f"run-{ids[0]}*.wandb")]
    assert logs
    for said in (b"loss_of_arm", b"train_step", b"seed_of_arm", b"arms"):
        assert any(said in log for log in logs), said
    assert list((tmp_path / "wandb").rglob("media/images/pictures/cameras_*.png"))


def png(size: int) -> bytes:
    from PIL import Image

    made = io.BytesIO()
    Image.new("RGB", (size, size)).save(made, "PNG")
    return made.getvalue()
