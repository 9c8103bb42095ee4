"""A Hub for every test that asks for one, and a client that does not wait long."""

from __future__ import annotations

import time

import pytest


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between two tries are a thousandth of what they are."""
    from huggingface_hub.utils import _http

    from vla_ops.published import hub_errors as errors

    class Hurried:
        def __getattr__(self, name: str) -> object:
            return getattr(time, name)

        @staticmethod
        def sleep(seconds: float) -> None:
            time.sleep(seconds / 1000)

    monkeypatch.setattr(_http, "time", Hurried())
    monkeypatch.setattr(errors, "time", Hurried())
