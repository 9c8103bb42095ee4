"""Publishing to S3, pulling from it and publishing again, against awscli, boto3 file by file, and one listing.

    python -m benchmarks.publishing [--mb 512] [--files 10000] [--rounds 3] [--latency-ms 0]

A real S3 server (SeaweedFS) on the loopback, where nothing but CPUs and the disk is waited for, or (`--latency-ms 20`) behind a link that
answers as late as a network. Ours hashes the files, sends them, compares what the store has, writes manifest and pointer, and compares
what is pulled with the manifest; the peers copy. awscli is PyPI's, as it comes, in an environment of its own; what it takes to start is
measured and taken off its times. The ways take turns, in the other order every second round; a ratio is of one round, and the median of
all rounds counts.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.remote import reached
from vla_ops.published.pull import published_at, pull
from vla_ops.publishing.hashing import Hashes
from vla_ops.publishing.package import Package
from vla_ops.publishing.publish import publish
from vla_ops.publishing.stores.s3 import S3Store
from vla_ops_tests.services.processes import program
from vla_ops_tests.services.s3 import Bucket, serve_s3

LARGE, SMALL_BYTES, LINK_MBIT = 4, 2_000, 1_000
# By row, the seconds of each way; the first is ours.
Times = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=512, help=f"10^6 bytes of the {LARGE} large files together; 0: none")
    parser.add_argument("--files", type=int, default=10_000, help=f"files of {SMALL_BYTES} bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=0)
    options = parser.parse_args()
    rounds: list[Times] = []
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(serve_s3(Path(name) / "s3"))
        endpoint = stack.enter_context(reached(server.endpoint, LINK_MBIT if options.latency_ms else 0, options.latency_ms))
        os.environ.update(server.environment | {"AWS_ENDPOINT_URL": endpoint})
        bench = Bench(Path(name), server.make_bucket(), program("awscli", "aws", Path(name) / "awscli"))
        large = made(Path(name) / "large", LARGE, options.mb * 1_000_000 // LARGE)
        small = made(Path(name) / "small", options.files, SMALL_BYTES)
        for k in range(options.rounds):
            bench.ours_first = k % 2 == 0
            times = measured_large(bench, f"large{k}", large) if options.mb else {}
            rounds.append(times | measured_small(bench, f"small{k}", small))
            said = "; ".join(f"{what}: {', '.join(f'{way} {s:.2f} s' for way, s in ways.items())}" for what, ways in rounds[-1].items())
            print(f"round {k + 1} (load {os.getloadavg()[0]:.1f}, aws starts in {bench.starts_s:.2f} s): {said}", flush=True)
    show(rounds, f"{LARGE} files of {options.mb} MB together, {options.files:,} of {SMALL_BYTES} bytes; median of {options.rounds}")


def made(folder: Path, count: int, size: int) -> dict[str, Path]:
    """Random bytes, in folders of a thousand files."""
    files = {f"params/{k // 1000}/{k}": folder / f"params/{k // 1000}/{k}" for k in range(count)}
    for k, path in enumerate(files.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(k).randbytes(size))  # noqa: S311 - no secret
    return files


@dataclass
class Bench:
    """The server's bucket, a folder for what is pulled, and whether it is our turn first."""

    folder: Path
    bucket: Bucket
    program: str
    ours_first: bool = True
    starts_s: float = field(init=False)

    def __post_init__(self) -> None:
        from boto3.session import Session

        self.client = Session().client("s3")
        self.client.put_object(Bucket=self.bucket.name, Key="started/x", Body=b"")
        start = [seconds(lambda: self._run("ls", f"{self.bucket.uri}/started/")) for _ in range(6)]
        self.starts_s = statistics.median(start[1:])  # The first makes its bytecode.

    def aws(self, *arguments: str) -> float:
        """Seconds of `aws s3 cp --recursive` with these, without its start."""
        return seconds(lambda: self._run("cp", "--recursive", "--only-show-errors", *arguments)) - self.starts_s

    def sync(self, *arguments: str) -> float:
        """Seconds of `aws s3 sync` with these, without its start."""
        return seconds(lambda: self._run("sync", "--only-show-errors", *arguments)) - self.starts_s

    def _run(self, *arguments: str) -> None:
        subprocess.run([self.program, "s3", *arguments], check=True, stdout=subprocess.DEVNULL)

    def in_turns(self, ways: Mapping[str, Callable[[], float]]) -> dict[str, float]:
        """Seconds of each, with nothing of those before left to be written to the disk."""
        took: dict[str, float] = {}
        for name in ways if self.ours_first else reversed([*ways]):
            os.sync()
            took[name] = ways[name]()
        return {name: took[name] for name in ways}

    def put_one_by_one(self, prefix: str, files: Mapping[str, Path]) -> float:
        """Seconds of a loop over `put_object`."""

        def put() -> None:
            for name, path in files.items():
                self.client.put_object(Bucket=self.bucket.name, Key=f"{prefix}/{name}", Body=path.read_bytes())

        return seconds(put)

    def listing(self, prefix: str) -> float:
        """Seconds of one complete listing."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name, Prefix=prefix)
        return seconds(lambda: [entry["Key"] for page in pages for entry in page["Contents"]])


def measured_large(bench: Bench, name: str, files: Mapping[str, Path]) -> Times:
    uri, ours = bench.bucket.uri, Ours(bench, name, files)

    def put_alone() -> float:
        hashed, store = Hashes().of(files.values()), S3Store(f"{uri}/alone")

        def put(pair: tuple[str, Any]) -> None:
            store.put(f"{name}/{pair[0]}", pair[1], like=None, sent=lambda _: None)

        with ThreadPoolExecutor(store.at_once) as pool:
            return seconds(lambda: list(pool.map(put, zip(files, hashed, strict=True))))

    ways = {"publish": ours.publish, "its put alone": put_alone, "aws s3 cp": lambda: bench.aws(str(ours.root), f"{uri}/aws/{name}")}
    up = bench.in_turns(ways)
    down = bench.in_turns({"pull": ours.pull, "aws s3 cp": lambda: bench.aws(ours.version, str(bench.folder / "aws"))})
    _clean(bench, name)
    return {"large files up": up, "large files down": down}


def measured_small(bench: Bench, name: str, files: Mapping[str, Path]) -> Times:
    uri, ours = bench.bucket.uri, Ours(bench, name, files)
    ways = {
        "publish": ours.publish,
        "boto3 one by one": lambda: bench.put_one_by_one(f"single/{name}", files),
        "aws s3 cp": lambda: bench.aws(str(ours.root), f"{uri}/aws/{name}"),
    }
    up = bench.in_turns(ways)
    key = ours.version.removeprefix(f"{uri}/")
    again = bench.in_turns({"publish": ours.publish, "one listing": lambda: bench.listing(key)})
    down = bench.in_turns({"pull": ours.pull, "aws s3 cp": lambda: bench.aws(ours.version, str(bench.folder / "aws"))})
    _clean(bench, name)
    return {"small files up": up, "nothing changed": again, "small files down": down}


@dataclass(frozen=True)
class Ours:
    """A publication of its own name, so that nothing of it is there and no hash is known."""

    bench: Bench
    name: str
    files: Mapping[str, Path]

    @property
    def root(self) -> Path:
        """The folder of its files."""
        name, path = next(iter(self.files.items()))
        return path.parents[name.count("/")]

    @property
    def uri(self) -> str:
        """Where it is published."""
        return f"{self.bench.bucket.uri}/ours/{self.name}"

    @property
    def version(self) -> str:
        """The URI of its newest version's folder."""
        version = published_at(self.uri)
        assert version is not None
        return version.uri

    def publish(self) -> float:
        """Seconds of publishing it; hashes are only known the second time."""
        package = Package("policy", self.name, self.files, {"robot": "arm"}, {})
        work = self.bench.folder / "work" / self.name
        return seconds(lambda: publish(package, S3Store(f"{self.bench.bucket.uri}/ours"), work=work))

    def pull(self) -> float:
        """Seconds of pulling its newest version into a cache that has nothing of it."""

        def act() -> None:
            version = published_at(self.uri)
            assert version is not None
            pull(version, self.bench.folder / "cache")

        return seconds(act)


def _clean(bench: Bench, name: str) -> None:
    for folder in ("aws", "cache"):
        shutil.rmtree(bench.folder / folder, ignore_errors=True)
    for prefix in ("ours", "alone", "aws", "single"):
        fs, root = bench.bucket.server.fs(), f"{bench.bucket.name}/{prefix}/{name}"
        if fs.exists(root):
            fs.rm(root, recursive=True)


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def compared(what: str, rounds: list[dict[str, float]]) -> Iterator[list[str]]:
    """A row for each of our peers."""
    ours, *peers = rounds[0]
    for peer in peers:
        times = [f"{statistics.median(each[way] for each in rounds):.2f} s" for way in (ours, peer)]
        ratios = sorted(each[ours] / each[peer] for each in rounds)
        yield [what, ours, times[0], peer, times[1], f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]


def show(rounds: list[Times], title: str) -> None:
    table = Table(title=title)
    for name in ("what", "ours", "takes", "against", "which takes", "times as long", "in the rounds"):
        table.add_column(name, no_wrap=True, justify="left" if name in {"what", "ours", "against"} else "right")
    for what in rounds[0]:
        for row in compared(what, [each[what] for each in rounds]):
            table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
