"""A home in S3 that two machines share, against awscli's `sync` of the same folder.

    python -m benchmarks.homes [--recordings 500] [--mb 512] [--rounds 3]

A robot's converted recordings (a video, numbers, three JSONs and a picture each) go from one machine to a real S3 server (SeaweedFS) on the
loopback and from there to another machine, then nothing has changed, then one recording is new. Ours hashes what is sent, compares what is
fetched, and joins what both did; `sync` copies what has another size or time, and knows of no other machine. The ways take turns, in the
other order every second round; a ratio is of one round, and the median of all rounds counts.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.publishing import Bench, Times, seconds, show
from vla_ops.homes.needs import everything
from vla_ops.homes.robot_home import RobotHome
from vla_ops.publishing.stores.s3 import S3Store
from vla_ops_tests.services.processes import program
from vla_ops_tests.services.s3 import serve_s3

SMALL = {"recording.json": 500, "contact_sheet.jpg": 30_000, "0/episode.json": 6_000, "0/frames.parquet": 40_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=500)
    parser.add_argument("--mb", type=int, default=512, help="10^6 bytes of all videos together")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds: list[Times] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serve_s3(folder / "s3"))
        os.environ.update(server.environment)
        bench = Bench(folder, server.make_bucket(), program("awscli", "aws", folder / "awscli"))
        for k in range(options.rounds):
            bench.ours_first = k % 2 == 0
            rounds.append(measured(bench, k, options.recordings, options.mb * 1_000_000 // options.recordings))
            said = "; ".join(f"{what}: {', '.join(f'{way} {s:.2f} s' for way, s in ways.items())}" for what, ways in rounds[-1].items())
            print(f"round {k + 1} (load {os.getloadavg()[0]:.1f}, aws starts in {bench.starts_s:.2f} s): {said}", flush=True)
    show(rounds, f"{options.recordings} recordings, {options.mb} MB of videos; median of {options.rounds}")


def measured(bench: Bench, number: int, recordings: int, video_bytes: int) -> Times:
    """A home and a folder of the round's own."""
    one, other, synced = (bench.folder / f"round{number}" / name for name in ("one/arm", "other/arm", "synced"))
    store, key = S3Store(f"{bench.bucket.uri}/home{number}/arm"), f"{bench.bucket.uri}/sync{number}"
    for k in range(recordings):
        convert(one, k, video_bytes)

    def send() -> float:
        return seconds(RobotHome(store, one, say=lambda _: None).send)

    def fetch() -> float:
        return seconds(lambda: RobotHome(store, other, say=lambda _: None).fetch(everything))

    def up() -> float:
        return bench.sync("--exclude", ".home/*", str(one), key)

    def down() -> float:
        return bench.sync(key, str(synced))

    times = {"all up": bench.in_turns({"send": send, "aws s3 sync": up}), "all down": bench.in_turns({"fetch": fetch, "aws s3 sync": down})}
    times["unchanged, up"] = bench.in_turns({"send": send, "aws s3 sync": up})
    times["unchanged, down"] = bench.in_turns({"fetch": fetch, "aws s3 sync": down})
    convert(one, recordings, video_bytes)
    times["one more, up"] = bench.in_turns({"send": send, "aws s3 sync": up})
    times["one more, down"] = bench.in_turns({"fetch": fetch, "aws s3 sync": down})
    shutil.rmtree(bench.folder / f"round{number}")
    return times


def convert(robot: Path, number: int, video_bytes: int) -> None:
    """What a converted recording leaves."""
    made = random.Random(number)  # noqa: S311 - no secret
    for name, size in {**SMALL, "0/cam_high.mp4": video_bytes}.items():
        file = robot / f"episodes/{number:05d}.mcap/{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.randbytes(size))


if __name__ == "__main__":
    main()
