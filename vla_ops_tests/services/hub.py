"""A Hub for tests: `hub` points the real huggingface_hub client, in this process and in those it starts, to a server of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vla_ops_tests.services.aio import served
from vla_ops_tests.services.hub_repos import Repo
from vla_ops_tests.services.hub_server import READ, WRITE, HubServer, Trouble

__all__ = ["READ", "WRITE", "HubServer", "Repo", "Trouble", "hub", "impatient_hub", "serve_hub"]


@contextmanager
def serve_hub(folder: Path) -> Iterator[HubServer]:
    """Run a Hub in a thread until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    server = HubServer(folder)
    with served(server.app()) as server.endpoint:
        try:
            yield server
        finally:
            server.held = lambda: False


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub, to which the client in this process and in those it starts is pointed, with a token that may write to `lab`."""
    from huggingface_hub import HfFileSystem, constants

    with serve_hub(tmp_path / "hub") as server:
        environment = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": WRITE, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        # Read from the environment when the client is imported, which may have been long ago.
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf/token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()


@pytest.fixture
def impatient_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between two tries are a thousandth of what they are."""
    from huggingface_hub.utils import _http

    from vla_ops.published import hub_errors
    from vla_ops.publishing.hub import store

    class Hurried:
        def __getattr__(self, name: str) -> object:
            return getattr(time, name)

        @staticmethod
        def sleep(seconds: float) -> None:
            time.sleep(seconds / 1000)

    for module in (_http, hub_errors, store):
        monkeypatch.setattr(module, "time", Hurried())
