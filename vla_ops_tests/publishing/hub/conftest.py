"""A client of the Hub that does not wait long."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def impatient(impatient_hub: None) -> None:
    """For every test here."""
