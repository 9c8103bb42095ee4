"""What a policy server costs beside its model: the protocol alone, the stages of a request, and requests a second of several clients.

Run: python benchmarks/serving.py [--rounds N]        with OPENPI_ROOT=<openpi's source> openpi's own server stands beside ours
Target: under 2 ms for encode, send, receive and decode of 3 x 224x224 images on loopback, and not more than openpi's server needs.

The peers get the same answers of the same stand-in policy (which computes nothing for the protocol, and the smallest pi0 for the stages),
and the same client: openpi-client's messages over the `websockets` library. Rounds alternate, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.append(str(PROJECT))
CLIENTS = (1, 4, 16)
TOGETHER = 8

OURS = """
import sys
import numpy as np
from vla_ops.serving.options import ServerOptions
from vla_ops.serving.server import serve
from vla_ops.serving.service import Answers, Reply

class Nothing(Answers):
    metadata = {}
    def answer(self, message):
        return Reply({"actions": np.zeros((50, 14)), "policy_timing": {"infer_ms": 0.0}})

serve(Nothing(), ServerOptions(port=int(sys.argv[1])), say=lambda line: None)
"""
THEIRS = """
import sys
import numpy as np
from openpi.serving.websocket_policy_server import WebsocketPolicyServer

class Nothing:
    def infer(self, message):
        return {"actions": np.zeros((50, 14)), "policy_timing": {"infer_ms": 0.0}}

WebsocketPolicyServer(Nothing(), host="127.0.0.1", port=int(sys.argv[1])).serve_forever()
"""


def observation() -> dict[str, Any]:
    random = np.random.default_rng(0)
    images = {name: random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for name in ("cam_high", "cam_left_wrist", "cam_right_wrist")}
    return {"state": random.normal(size=14).astype(np.float32), "images": images, "prompt": "fold the towel"}


@contextmanager
def process(program: str, paths: list[str]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, str(port)], env=environment) as server:
        try:
            yield f"ws://127.0.0.1:{port}"
        finally:
            server.terminate()


@contextmanager
def connected(uri: str) -> Iterator[Any]:
    from websockets.sync.client import connect

    ends = time.monotonic() + 60
    while True:
        try:
            with connect(uri, compression=None, max_size=None) as connection:
                connection.recv()
                yield connection
                return
        except ConnectionRefusedError:
            assert time.monotonic() < ends, f"{uri} does not answer"
            time.sleep(0.1)


def asking(connection: Any, message: dict[str, Any], pack: Callable[[Any], bytes], unpack: Callable[[bytes], Any]) -> Any:
    connection.send(pack(message))
    return unpack(connection.recv())


def p50_p95(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"p50 {statistics.median(ordered) * 1e3:7.2f} ms   p95 {ordered[int(0.95 * len(ordered))] * 1e3:7.2f} ms"


def protocol(servers: dict[str, str], rounds: int) -> None:
    """Round trips of 3 x 224x224 images and a chunk back, both servers in turn."""
    from vla_ops.serving.wire import pack, unpack

    message = observation()
    took: dict[str, list[float]] = {name: [] for name in servers}
    quietest = dict.fromkeys(servers, float("inf"))
    for _ in range(rounds):
        for name, uri in servers.items():
            with connected(uri) as connection:
                for k in range(60):
                    began = time.perf_counter()
                    asking(connection, message, pack, unpack)
                    if k >= 10:
                        took[name].append(time.perf_counter() - began)
                quietest[name] = min(quietest[name], statistics.median(took[name][-50:]))
    print(f"\nprotocol overhead, {len(pack(message)):,} bytes out, {50 * 14 * 8:,} back, no model")
    for name, seconds in took.items():
        print(f"  {name:<16} {p50_p95(seconds)}   quietest round p50 {quietest[name] * 1e3:.2f} ms")
    if len(took) == 2:
        ours, theirs = quietest.values()
        print(f"  ours / openpi's  {ours / theirs:.2f} (quietest rounds)")
    print(f"  under 2 ms: {quietest['ours'] < 2e-3}")


def throughput(servers: dict[str, str], seconds: float) -> None:
    """Requests a second of several clients, each asking again when it is answered."""
    from vla_ops.serving.wire import pack, unpack

    message = observation()
    print(f"\nrequests a second, no model\n  {'':<16} {'  '.join(f'{count:>3} clients' for count in CLIENTS)}")
    for name, uri in servers.items():
        rates = [rate(uri, count, seconds, lambda connection: asking(connection, message, pack, unpack)) for count in CLIENTS]
        print(f"  {name:<16} {'  '.join(f'{value:>11.0f}' for value in rates)}")


def rate(uri: str, clients: int, seconds: float, ask: Callable[[Any], Any]) -> float:
    counted = [0] * clients
    started, ends = threading.Barrier(clients), time.monotonic() + 120

    def run(k: int) -> None:
        with connected(uri) as connection:
            ask(connection)
            started.wait(60)
            until = time.monotonic() + seconds
            while time.monotonic() < min(until, ends):
                ask(connection)
                counted[k] += 1

    threads = [threading.Thread(target=run, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counted) / seconds


def packing(rounds: int) -> None:
    """Bytes of a request made and read, beside msgpack with arrays copied into bytes first, as openpi-client does it."""
    import msgpack

    from vla_ops.serving.wire import pack, unpack

    def copied(value: Any) -> Any:
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}

    def read(value: Any) -> Any:
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"]) if b"data" in value else value

    message = observation()
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: unpack(pack(message)),
        "as openpi-client": lambda: msgpack.unpackb(msgpack.packb(message, default=copied) or b"", object_hook=read),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds * 100):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            took[name].append(time.perf_counter() - began)
    print("\npacked and unpacked, in memory")
    for name, seconds in took.items():
        print(f"  {name:<16} {p50_p95(seconds)}")
    ours, theirs = (statistics.median(seconds) for seconds in took.values())
    print(f"  ours / theirs    {ours / theirs:.2f}")


def stages(rounds: int, seconds: float) -> None:
    """A whole policy (the smallest pi0, on this machine's device), in JAX and exported to PyTorch: seconds by stage, requests a second."""
    from tempfile import TemporaryDirectory

    from vla_ops.export.refresh import refresh_exports
    from vla_ops.policies.backend import BackendOptions, batches
    from vla_ops.policies.policy import Policy
    from vla_ops.spec.training import ExportSpec
    from vla_ops_tests.export.small_export import make_run

    with TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        asked = ExportSpec(layouts=["openpi"], dtype="float32")
        (export,) = refresh_exports(run.home, "arm", "small", asked, say=lambda _: None)
        found: dict[str, tuple[float, dict[str, list[float]], dict[int, list[float]]]] = {}
        for name, place in {"JAX": run.folder, "PyTorch": export.folder}.items():
            began = time.perf_counter()
            policy = Policy.load(place)
            loaded = time.perf_counter() - began
            together = Policy.load(place, options=BackendOptions(batch_sizes=batches(TOGETHER)))
            found[name] = (loaded, *served({1: policy, TOGETHER: together}, rounds, seconds))
    print("\nthe smallest pi0, the same weights and inputs: loaded, compiled and warmed up (imports included) in")
    print("".join(f"  {name:<16} {loaded:.1f} s\n" for name, (loaded, _, _) in found.items()))
    for name, (_, took, rates) in found.items():
        for stage, spent in took.items():
            print(f"  {name:<8} {stage:<16} {p50_p95(spent)}")
        for at_once, each in rates.items():
            values = ", ".join(f"{value:.0f}" for value in each)
            print(f"  {name:<8} requests/s at {', '.join(map(str, CLIENTS))} clients, up to {at_once} computed at once: {values}")
    jax, torch = (statistics.median(took["round trip"]) for _, took, _ in found.values())
    print(f"  round trip, JAX / PyTorch  {jax / torch:.2f}")


def served(policies: dict[int, Any], rounds: int, seconds: float) -> tuple[dict[str, list[float]], dict[int, list[float]]]:
    """The seconds of each stage of a client's requests, and requests a second of several clients by how many are computed at once."""
    from vla_ops.serving.options import ServerOptions
    from vla_ops.serving.server import running
    from vla_ops.serving.service import PolicyService
    from vla_ops.serving.wire import pack, unpack
    from vla_ops_tests.policies.small_run import message

    took: dict[str, list[float]] = {}
    asked = dict(message())
    with running(PolicyService(policies[1]), ServerOptions(port=0)) as server, connected(server.uri) as connection:
        for k in range(100 * rounds + 10):
            sent = time.perf_counter()
            reply = asking(connection, asked, pack, unpack)
            whole = time.perf_counter() - sent
            parts = {name: ms / 1e3 for name, ms in reply["policy_timing"].items() if name != "infer_ms"}
            parts |= {"in the server": reply["server_timing"]["infer_ms"] / 1e3, "round trip": whole}
            for name, spent in parts.items() if k >= 10 else ():
                took.setdefault(name.removesuffix("_ms"), []).append(spent)
    rates: dict[int, list[float]] = {}
    for at_once, policy in policies.items():
        with running(PolicyService(policy), ServerOptions(port=0, max_batch=at_once)) as server:
            rates[at_once] = [rate(server.uri, count, seconds, lambda one: asking(one, asked, pack, unpack)) for count in CLIENTS]
    return took, rates


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--seconds", type=float, default=3.0)
    given = asked.parse_args()
    packing(given.rounds)
    root = os.environ.get("OPENPI_ROOT")
    with process(OURS, [str(PROJECT)]) as ours:
        if root is None:
            print("\nOPENPI_ROOT is not set: openpi's server is not measured")
            protocol({"ours": ours}, given.rounds)
            throughput({"ours": ours}, given.seconds)
        else:
            with process(THEIRS, [f"{root}/src", f"{root}/packages/openpi-client/src"]) as theirs:
                servers = {"ours": ours, "openpi's server": theirs}
                protocol(servers, given.rounds)
                throughput(servers, given.seconds)
    stages(given.rounds, given.seconds)


if __name__ == "__main__":
    main()
