"""What the pages of the web server cost: the queries they send, against a real one that is started and stopped here."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.scale_memory import peak_mb

_CODE = """\
import sys
from pathlib import Path
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.robot_file import load_robot
defs = robot_definitions(load_robot(Path({folder!r})))
"""
# What the page of a partitioned asset asks for its bar of partitions, and the list of assets for its column of partitions.
QUERIES = {
    "asset_page": """
        query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { id
          partitionKeysByDimension { name type partitionKeys }
          assetPartitionStatuses { __typename ... on DefaultPartitionStatuses {
            materializedPartitions failedPartitions materializingPartitions unmaterializedPartitions } } } } }""",
    "assets_page": """
        { assetNodes { id assetKey { path } groupName
          partitionStats { numPartitions numMaterialized numFailed numMaterializing } } }""",
}
_UP_S = 300.0
# Of /proc/<pid>/stat, in a second.
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(folder: Path) -> dict[str, float]:
    """Seconds of the server's CPU (the first time, and the lowest of the next three) and bytes of each page, and its peak memory."""
    (folder / "ui_defs.py").write_text(_CODE.format(folder=str(folder / "arm")))
    found: dict[str, float] = {}
    with _web_server(folder) as (port, pid):
        for name, query in QUERIES.items():
            variables = {"key": {"path": ["arm", "episodes"]}} if "$key" in query else {}
            times, size = [], 0
            for _ in range(4):
                start = _cpu_s(pid)
                answer = _ask(port, query, variables)
                times.append(_cpu_s(pid) - start)
                size = len(answer)
            found |= {f"{name}_first_s": times[0], f"{name}_s": min(times[1:]), f"{name}_bytes": size}
        found["ui_mb"] = sum(peak_mb(one) for one in _family(pid))
    return found


@contextmanager
def _web_server(folder: Path) -> Iterator[tuple[int, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = str(Path(sys.executable).with_name("dagster-webserver"))
    command = [program, "-h", "127.0.0.1", "-p", str(port), "-f", str(folder / "ui_defs.py"), "--code-server-log-level", "error"]
    with (folder / "ui.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(port, server, folder / "ui.log")
            yield port, server.pid
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _UP_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            found = json.loads(_ask(port, "{ repositoriesOrError { __typename ... on RepositoryConnection { nodes { name } } } }", {}))
            if found["data"]["repositoriesOrError"].get("nodes"):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(1)
    raise RuntimeError(f"the web server did not come up:\n{log.read_text()[-2000:]}")


def _ask(port: int, query: str, variables: dict[str, Any]) -> bytes:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310 - the server started above
        read = answer.read()
    if b'"errors"' in read[:200] or b"PythonError" in read[:400]:
        raise RuntimeError(read[:2000].decode())
    return read


def _cpu_s(pid: int) -> float:
    """CPU time of the process and all below it so far, in seconds."""
    return sum(sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13])) for one in _family(pid)) / _TICKS


def _family(pid: int) -> list[int]:
    """The process and all below it."""
    children = [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]
    return [pid, *(one for child in children for one in _family(child))]


# ruff: noqa: S608 - the names in these statements are SQLite's own.
def copy_event_to(partitions: list[str]) -> None:
    """Give partitions that have none the materialization of one that has, row by row in SQLite: real events of so many take hours."""
    path = Path(os.environ["DAGSTER_HOME"]) / "history/runs/index.db"
    with sqlite3.connect(path) as database:
        kind, asset = "ASSET_MATERIALIZATION", json.dumps(["arm", "episodes"])
        where = "dagster_event_type = ? AND asset_key = ? AND partition IS NOT NULL"
        columns = [row[1] for row in database.execute("PRAGMA table_info(event_logs)") if row[1] != "id"]
        names = ", ".join(columns)
        row = database.execute(f"SELECT {names} FROM event_logs WHERE {where} ORDER BY id DESC LIMIT 1", (kind, asset)).fetchone()
        known = {one[0] for one in database.execute(f"SELECT partition FROM event_logs WHERE {where}", (kind, asset))}
        at, event, before = columns.index("partition"), columns.index("event"), row[columns.index("partition")]
        rows = []
        for partition in partitions:
            if partition not in known:
                copy = list(row)
                copy[at], copy[event] = partition, str(row[event]).replace(json.dumps(before), json.dumps(partition))
                rows.append(copy)
        database.executemany(f"INSERT INTO event_logs ({names}) VALUES ({', '.join('?' * len(columns))})", rows)
