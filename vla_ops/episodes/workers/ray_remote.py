"""What is sent to the cluster: a task and an actor, by value, so that a node without vla_ops can say that it has none."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def conversion_task(ray: ModuleType, *, cpus: int) -> Any:
    """The remote function (job, what all jobs share, mailbox) -> the answer of `convert_on_node`, with all camera `frames` that it told the
    mailbox of. It is run once.
    """

    def convert(job: dict[str, Any], common: dict[str, Any], mailbox: Any) -> dict[str, Any]:
        import os
        import socket

        name, node, told = job["name"], f"{socket.gethostname()} (process {os.getpid()})", [0]

        def report(frames: int, fraction: float) -> None:
            told[0] += frames
            # Never waited for: a task that waits gives its core away, for which Ray starts another process.
            mailbox.put.remote(name, node, frames, fraction)

        report(0, 0.0)
        try:
            from vla_ops.episodes.workers.on_node import convert_on_node
        except ImportError as error:
            todo = "Install there exactly what is installed here."
            return {"event": "refused", "what": f"node {node} cannot convert recordings", "found": f"{error}", "todo": todo}
        return convert_on_node({**common, **job}, report) | {"frames": told[0]}

    return ray.remote(num_cpus=cpus, max_retries=0)(convert)


def mailbox_actor(ray: ModuleType) -> Any:
    """An actor that keeps the progress of tasks until it is taken: name -> (host and process, camera frames since then, part done)."""

    class Mailbox:
        def __init__(self) -> None:
            self.letters: dict[str, tuple[str, int, float]] = {}

        def put(self, name: str, node: str, frames: int, fraction: float) -> None:
            before = self.letters[name][1] if name in self.letters else 0
            self.letters[name] = (node, before + frames, fraction)

        def take(self) -> dict[str, tuple[str, int, float]]:
            letters, self.letters = self.letters, {}
            return letters

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside this process, which the run cannot outlive anyway.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Mailbox).options(scheduling_strategy=here).remote()
