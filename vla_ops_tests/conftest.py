"""Where the shared real recordings and golden numbers are, for the tests that read them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Services that tests of any folder may ask for.
from vla_ops_tests.services.gcs import gcs_server, gs  # noqa: F401
from vla_ops_tests.services.http import http  # noqa: F401
from vla_ops_tests.services.hub import hub, impatient_hub  # noqa: F401
from vla_ops_tests.services.s3 import s3, s3_server  # noqa: F401

# How long an example takes is the machine's business.
settings.register_profile("vla_ops", deadline=None)
settings.load_profile("vla_ops")

# A shell that starts the tests in the background has them ignore the interrupt that some send to themselves or to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: str) -> Path:
    path = Path(os.environ.get(variable, REPO.parent / "shared" / default))
    if not path.is_dir():
        pytest.skip(f"{path} is not there; set {variable} to the folder")
    return path


@pytest.fixture(scope="session")
def recordings_dir() -> Path:
    """Real recordings, with a manifest.json that says what each is."""
    return _folder("VLA_OPS_TEST_RECORDINGS", "recordings")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers recorded from the real openpi."""
    return _folder("VLA_OPS_GOLDEN", "golden")


# Files that take minutes are begun first: at the end no worker is left alone with one of them.
LONGEST = [
    f"{name}.py"
    for name in (
        "lineage/test_training", "training/test_hosts", "training/test_killed", "lineage/test_training_stopped", "export/test_export",
        "test_views_read_back", "benchmarks/test_pi0_benchmarks", "test_cli_train", "lineage/test_torch_policy", "lineage/test_mixture",
        "export/test_torch_backend", "training/test_train", "training/test_step_golden", "lineage/test_pipeline",
    )
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests the time that they need on a slow machine where they do not say it themselves, and begin with the longest files."""
    for item in items:
        if item.get_closest_marker("timeout") is None and (item.get_closest_marker("slow") or item.get_closest_marker("services")):
            item.add_marker(pytest.mark.timeout(1200))
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    return next((place for place, name in enumerate(LONGEST) if item.path.as_posix().endswith(f"vla_ops_tests/{name}")), len(LONGEST))
