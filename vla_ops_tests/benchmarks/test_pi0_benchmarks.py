"""The benchmarks of the model run: the full-size one with tiny models, the one against openpi as far as it gets without openpi."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    without = {name: value for name, value in os.environ.items() if not name.startswith("OPENPI_")}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=REPO, env=without | environment, capture_output=True, text=True, check=False
    )


def test_without_openpi_it_says_why_nothing_is_compared() -> None:
    done = run("benchmarks.pi0")
    assert (done.returncode, done.stdout[:8]) == (0, "skipped:")
    assert "OPENPI_ROOT is not set" in done.stdout


def test_a_folder_that_is_not_openpis_is_said(tmp_path: Path) -> None:
    done = run("benchmarks.pi0", OPENPI_ROOT=str(tmp_path))
    assert done.returncode == 0
    assert f"OPENPI_ROOT is {tmp_path}, where there is no src/openpi" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_full_size_benchmark_measures_tiny_models_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    options = ("--tiny", "--models", "pi0", "--what", "lora", "sample", "--peak", "1", "--write", str(file))
    # Compiling takes most of the time.
    done = run("benchmarks.gpu_pi0", *options, JAX_PLATFORMS="cpu", JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pi0_tiny, LoRA fine-tuning" in done.stdout
    train, sample = json.loads(file.read_text())["results"]
    assert math.isfinite(train["loss"])
    for result in (train, sample):
        assert result["seconds"] > 0
        assert result["mfu"] == pytest.approx(result["flops"] / result["seconds"] / 1e12)
        assert 0.4 < result["planned_bytes"] / result["estimated_bytes"] < 2.5


def test_a_row_that_fails_says_why() -> None:
    options = ("--tiny", "--models", "pi0", "--what", "sample", "--xla-flags=--xla_no_such_flag=1")
    done = run("benchmarks.gpu_pi0", *options, JAX_PLATFORMS="cpu")
    assert done.returncode == 1
    assert "failed" in done.stdout
    assert "xla_no_such_flag" in done.stdout
