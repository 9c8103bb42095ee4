"""The contract on a Ray cluster of two nodes, into a shared store and through a staging folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vla_ops.episodes.pool import Workers
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers.ray_cluster import connected
from vla_ops.episodes.workers.ray_workers import RayWorkers
from vla_ops.spec import RayConversion
from vla_ops_tests.episodes.workers.contract import WorkersContract
from vla_ops_tests.holding import Hold
from vla_ops_tests.services.ray_nodes import RayNodes, two_nodes  # noqa: F401 - a fixture

pytestmark = pytest.mark.services


class TestSharedStore(WorkersContract):
    @pytest.fixture
    def workers(self, two_nodes: RayNodes, tmp_path: Path) -> Workers:  # noqa: F811
        return RayWorkers(RayConversion(address=two_nodes.address))

    @pytest.fixture
    def held(self, two_nodes: RayNodes) -> Iterator[Hold]:  # noqa: F811
        yield two_nodes.held
        two_nodes.held.release()


class TestStagingFolder(WorkersContract):
    """On a connection that someone else has made, as a notebook or a Dagster resource does."""

    @pytest.fixture
    def workers(self, two_nodes: RayNodes, tmp_path: Path) -> Iterator[Workers]:  # noqa: F811
        with connected(RayConversion(address=two_nodes.address)) as ray:
            yield RayWorkers(RayConversion(store=f"file://{tmp_path}/staging"))
            assert ray.is_initialized()

    @pytest.fixture
    def held(self, two_nodes: RayNodes) -> Iterator[Hold]:  # noqa: F811
        yield two_nodes.held
        two_nodes.held.release()

    def work_on(self, recording: str, store: RobotStore) -> list[Path]:
        # The node works in a folder of its own.
        return list(Path(tempfile.gettempdir()).glob(f"vla_ops-*/scratch.tmp-*/store/episodes/{recording}.tmp-*"))
