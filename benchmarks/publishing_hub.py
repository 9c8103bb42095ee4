"""Publishing to the Hub and pulling from it, against `hf upload` and `hf download`.

    python -m benchmarks.publishing_hub [--mb 512] [--files 200] [--rounds 3]

A server that speaks the Hub's API, in a process of its own on the loopback (vla_ops_tests/services/hub.py; LFS, not Xet). Ours hashes the
files, sends them to a branch, compares what is there, tags it and moves `main`, and compares what is pulled with the manifest; the peers
copy.
What `hf` takes to start is measured and taken off its times. The ways take turns, in the other order every second round; a ratio is of one
round, and the median of all rounds counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.publishing import LARGE, SMALL_BYTES, made, seconds, show
from vla_ops.publishing.package import Package

_SERVER = (
    "import sys, time; from pathlib import Path; from vla_ops_tests.services.hub import serve_hub\n"
    "with serve_hub(Path(sys.argv[1])) as hub: print(hub.endpoint, flush=True); sys.stdin.read()"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=512, help=f"10^6 bytes of the {LARGE} large files together")
    parser.add_argument("--files", type=int, default=200, help=f"files of {SMALL_BYTES} bytes beside them")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_hub(Path(name) / "hub") as environment:
        # Before the client is imported, which reads them once.
        os.environ.update(environment)
        files = made(Path(name) / "large", LARGE, options.mb * 1_000_000 // LARGE)
        files |= {f"data/{key}": path for key, path in made(Path(name) / "small", options.files, SMALL_BYTES).items()}
        bench = Bench(Path(name), gathered(Path(name) / "folder", files))
        rounds = [bench.round(k, ours_first=k % 2 == 0) for k in range(options.rounds)]
    show(rounds, f"{LARGE} files of {options.mb} MB together and {options.files} of {SMALL_BYTES} bytes; median of {options.rounds}")


@contextmanager
def running_hub(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which the client reaches a Hub that runs until the end of the block."""
    from vla_ops_tests.services.hub import WRITE

    command = [sys.executable, "-c", _SERVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        home = {"HF_HOME": str(folder.with_name("hf")), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        try:
            yield {"HF_ENDPOINT": endpoint, "HF_TOKEN": WRITE, "HF_HUB_DISABLE_XET": "1", **home}
        finally:
            server.communicate()


def gathered(folder: Path, files: dict[str, Path]) -> dict[str, Path]:
    """The files below one folder, as `hf upload` takes them."""
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(folder / name)
    return {name: folder / name for name in files}


@dataclass(frozen=True)
class Bench:
    """Where it works, and what is published."""

    folder: Path
    files: dict[str, Path]

    def round(self, k: int, *, ours_first: bool) -> dict[str, dict[str, float]]:
        """Seconds of each way, both ways."""
        starts_s = statistics.median(seconds(lambda: self._hf("version")) for _ in range(3))
        here = self.folder / "folder"
        ways = {
            "publish": lambda: self._published(k),
            "hf upload": lambda: seconds(lambda: self._hf("upload", f"lab/peer{k}", str(here), "--private")) - starts_s,
        }
        # A Hub keeps what it has once: each is to send content of its own. The last one's is what both find unchanged.
        up = {name: lambda name=name: self._stamped(f"{name} {k}", ways[name]) for name in ways}
        again = {name: lambda name=name: self._twice(ways[name]) for name in ways}
        peer = str(self.folder / "peer")
        down = {
            "pull": lambda: self._pulled(k),
            "hf download": lambda: seconds(lambda: self._hf("download", f"lab/peer{k}", "--local-dir", peer)) - starts_s,
        }
        rows = {"up": up, "nothing changed": again, "down": down}
        took = {what: in_turns(each, ours_first=ours_first) for what, each in rows.items()}
        for name in ("peer", "cache"):
            shutil.rmtree(self.folder / name)
        return took

    def _stamped(self, text: str, act: Callable[[], float]) -> float:
        for path in self.files.values():
            with open(path, "r+b") as file:
                file.write(text.encode())
        return act()

    def _twice(self, act: Callable[[], float]) -> float:
        act()
        return act()

    def _hf(self, *arguments: str) -> None:
        subprocess.run([Path(sys.executable).with_name("hf"), *arguments], check=True, stdout=subprocess.DEVNULL)

    def _published(self, k: int) -> float:
        from vla_ops.published.hub_address import HubAddress
        from vla_ops.publishing.hub.publish import publish_to_hub

        package = Package("dataset", "arm/lerobot_v3", self.files, {"robot": "arm", "dataset_version": "d1", "round": k}, {})
        address = HubAddress(f"lab/ours{k}", is_dataset=True)
        return seconds(lambda: publish_to_hub(package, address, work=self.folder / f"work{k}"))

    def _pulled(self, k: int) -> float:
        from vla_ops.published.pull import published_at, pull

        def act() -> None:
            version = published_at(f"hub:datasets/lab/ours{k}")
            assert version is not None
            pull(version, self.folder / "cache")

        return seconds(act)


def in_turns(ways: dict[str, Callable[[], float]], *, ours_first: bool) -> dict[str, float]:
    """Seconds of each, with nothing of those before left to be written to the disk."""
    took: dict[str, float] = {}
    for name in ways if ours_first else reversed([*ways]):
        os.sync()
        took[name] = ways[name]()
    return {name: took[name] for name in ways}


if __name__ == "__main__":
    main()
