"""What a server counts, in Prometheus' text form at /metrics; in a registry of its own, so that several servers live in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE_LATEST", "ServerMetrics"]

# Seconds: from a decoded message to a large model on a CPU.
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


# Requests.
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class ServerMetrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._seconds = Histogram("vla_ops_stage_seconds", "Seconds of a request by stage", ["stage"], buckets=_BUCKETS, registry=registry)
        self._requests = Counter("vla_ops_requests", "Requests by how they ended", ["outcome"], registry=registry)
        self._errors = Counter("vla_ops_errors", "Errors by kind", ["kind"], registry=registry)
        self._together = Histogram("vla_ops_batch_size", "Requests that were computed at once", buckets=_SIZES, registry=registry)
        self._clients = Gauge("vla_ops_clients", "Clients that are connected", registry=registry)
        self._waiting = Gauge("vla_ops_waiting_requests", "Requests that wait for their turn", registry=registry)

    def watch(self, *, clients: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Where the numbers of this moment come from."""
        self._clients.set_function(clients)
        self._waiting.set_function(waiting)

    def answered(self, seconds: Mapping[str, float]) -> None:
        """Count a reply and the seconds of its stages."""
        self._requests.labels("answered").inc()
        for stage, spent in seconds.items():
            self._seconds.labels(stage).observe(spent)

    def computed(self, together: int) -> None:
        """Count a call of the policy, for so many requests."""
        self._together.observe(together)

    def failed(self, kind: str) -> None:
        """Count a request that was not answered with actions, by its error."""
        self._requests.labels("failed").inc()
        self._errors.labels(kind).inc()

    def refused(self, kind: str) -> None:
        """Count a connection that was not taken, or was ended."""
        self._errors.labels(kind).inc()

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
