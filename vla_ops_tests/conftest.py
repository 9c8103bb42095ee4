"""Where the shared real recordings and golden numbers are, for the tests that read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
