"""A Ray cluster of real processes on this machine: a head and more nodes, each of which can be killed like a machine that goes down."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from vla_ops_tests.holding import Hold, hold_workers
from vla_ops_tests.services.processes import free_ports


@dataclass
class RayNodes:
    """A running cluster. `address` is that of its head."""

    cluster: Any
    client_port: int
    # Keeps its workers in the middle of the recordings that it is told.
    held: Hold

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self, *, cpus: int = 1, environment: Mapping[str, str] | None = None) -> Node:
        variables = {**os.environ, **self.held.environment, **(environment or {})}
        return Node(_started(lambda: self.cluster.add_node(num_cpus=cpus, env_vars=variables)))

    @property
    def client_address(self) -> str:
        """The address for machines that are not of the cluster."""
        return f"ray://{self.cluster.head_node.node_ip_address}:{self.client_port}"

    @property
    def head(self) -> Node:
        return Node(self.cluster.head_node)

    def remove(self, node: Node) -> None:
        self.cluster.remove_node(node.node, allow_graceful=False)


@dataclass
class Node:
    """One node: its raylet, and the workers that are its children."""

    node: Any

    @property
    def pids(self) -> list[int]:
        """Every process of it, workers last."""
        own = [info.process.pid for infos in self.node.all_processes.values() for info in infos]
        return own + [child.pid for pid in own if psutil.pid_exists(pid) for child in psutil.Process(pid).children(recursive=True)]

    def kill(self) -> None:
        """End it as a power cut would."""
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class _Slower:
    """The module `time` whose clocks go at a tenth of the speed."""

    def __init__(self) -> None:
        self._began = time.time(), time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        return self._began[0] + (time.time() - self._began[0]) / 10

    def monotonic(self) -> float:
        return self._began[1] + (time.monotonic() - self._began[1]) / 10


def _started[T](start: Callable[[], T]) -> T:
    """What `start` starts. Ray gives a node 30 s to come up, whatever else the machine is doing, and no setting changes that."""
    import ray.cluster_utils

    with pytest.MonkeyPatch.context() as patch:
        for module in (ray._private.node, ray._private.services, ray.cluster_utils):
            patch.setattr(module, "time", _Slower())
        return start()


@contextmanager
def ray_nodes(*, cpus: int = 1) -> Iterator[RayNodes]:
    """Run a head of so many cores. Nothing is reported to anyone, and nothing outside this machine is asked."""
    # As the project sets it; Ray reads it when it is first imported, which is here.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    pytest.importorskip("ray", reason="needs the extra `ray`")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # With gRPC's own handling of forks, two of three client servers (`ray://`) do not come up on a loaded machine.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # Ray's workers yield to all else by default: beside a busy process of these two cores they come to nothing.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.cluster_utils import Cluster

        (port,) = free_ports(1)
        # It notes its address there, and only `ray.init` and `ray start` make the folder.
        Path(ray._common.utils.get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
        head = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 80 * 2**20, "ray_client_server_port": port}
        # Sockets have short paths; pytest's folders are too deep for them.
        with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
            held = hold_workers(Path(folder).resolve() / "held")
            arguments = {**head, "temp_dir": str(Path(folder).resolve()), "env_vars": {**os.environ, **held.environment}}
            cluster = _started(lambda: Cluster(initialize_head=True, head_node_args=arguments))
            # Ray leaves two files of logs open.
            gc.collect()
            nodes = RayNodes(cluster, port, held)
            try:
                yield nodes
            finally:
                cluster.shutdown()


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[RayNodes]:
    """A head and a second node, one core each, which no test kills."""
    with ray_nodes() as nodes:
        nodes.add()
        yield nodes
