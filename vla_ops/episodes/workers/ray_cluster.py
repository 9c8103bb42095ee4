"""The connection to an existing Ray cluster: made or refused in seconds, and never by starting one."""

from __future__ import annotations

import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from vla_ops.errors import ClusterError
from vla_ops.spec import RayConversion

_ANSWER_WITHIN_S = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def connected(settings: RayConversion) -> Iterator[ModuleType]:
    """Yield `ray`, connected to the cluster that `settings` name; a connection that is there already (a notebook's, a Dagster
    resource's) is used and kept.

    Raise ClusterError with the address if there is no cluster.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    if settings.resource is not None:
        todo = "Let its `lifecycle` connect, and convert through the asset; `vla-ops convert ROBOT --ray ADDRESS` needs no resource."
        raise ClusterError("the Dagster resource is not connected to a Ray cluster", resource=settings.resource, todo=todo)
    address = settings.address or os.environ.get("RAY_ADDRESS") or "auto"
    if address != "auto":
        _refuse_silence(address)
    _connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _import_ray() -> ModuleType:
    # Started with `uv run`, Ray would have the nodes make an environment of their own from this folder, without extras: they are to have
    # the project installed. It reads this when it is imported.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
    except ImportError as error:
        todo = "Install it with `uv sync --extra ray` or `pip install 'vla-ops[ray]'`, in the version that the cluster has."
        raise ClusterError("conversion on a Ray cluster needs the package `ray`", found=str(error), todo=todo) from error
    return ray


def _connect(ray: ModuleType, address: str) -> None:
    try:
        # Ray warns of its own future; and it would take over the signals by which a run is stopped.
        with warnings.catch_warnings(), _signals_kept():
            warnings.simplefilter("ignore")
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ConnectionAbortedError as error:
        # The head answers, but the process that it starts for each client came to nothing.
        todo = "Start its head with GRPC_ENABLE_FORK_SUPPORT=0 in the environment: without it these servers often hang. Or use host:6379."
        found = " ".join(str(error).split())[-300:]
        raise ClusterError("the Ray cluster has no server for this client", address=address, found=found, todo=todo) from error
    except Exception as error:  # Among others ConnectionError, RuntimeError, ValueError, and TimeoutError of three libraries.
        raise _no_cluster(address, f"{type(error).__name__}: {error}") from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, action in kept.items():
            signal.signal(number, action)


def _refuse_silence(address: str) -> None:
    """Raise ClusterError if nothing that speaks gRPC answers: Ray itself would try for two minutes."""
    import grpc

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WITHIN_S).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, f"{type(error).__name__}: {error}") from error
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return
    with grpc.insecure_channel(address.removeprefix("ray://"), options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_WITHIN_S)
        except grpc.FutureTimeoutError as error:
            raise _no_cluster(address, f"no answer in {_ANSWER_WITHIN_S:g} s") from error


def _no_cluster(address: str, found: str) -> ClusterError:
    todo = (
        "Is it running, and is this its address? `auto` and `host:port` (6379) are for machines of the cluster, `ray://host:10001` for "
        "any other. It stands in conversion.ray.address of the robot's YAML, in RAY_ADDRESS or behind --ray."
    )
    return ClusterError("no Ray cluster can be reached", address=address, found=found, todo=todo)
