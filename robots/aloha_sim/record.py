"""Record demonstrations of the ALOHA simulator: `python -m robots.aloha_sim.record --out robots/aloha_sim/recordings`.

Needs the `sim` extra and a software or hardware GL (Debian: libegl1 libgl1-mesa-dri; or libosmesa6 with MUJOCO_GL=osmesa).
The same seed gives the same motion everywhere, and the same bytes with the same versions of MuJoCo and of the GL.
The recordings beside this file are what this command writes; those of the tests come from

    python -m robots.aloha_sim.record --out vla_ops_tests/data/aloha_sim --format hdf5 --episodes 1 --seed 100 --fps 10
    python -m robots.aloha_sim.record --out vla_ops_tests/data/aloha_sim --format zarr --episodes 2 --seed 200 --fps 10
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from robots.aloha_sim.expert import Scene
from robots.aloha_sim.formats import write_hdf5, write_mcap, write_zarr
from robots.aloha_sim.simulate import TRANSFERRED, CameraSettings, Demonstration, simulate


def record(
    out: Path,
    *,
    format: Literal["mcap", "hdf5", "zarr"] = "mcap",
    episodes: int = 6,
    seed: int = 0,
    fps: int = 25,
    height: int = 120,
    width: int = 160,
    jpeg_quality: int = 70,
) -> list[Path]:
    """Record scripted transfers of a red cube and say of each whether it succeeded; one that failed is not written.

    Args:
        out: Folder to write to.
        format: One file an episode for mcap and hdf5, one replay buffer of all for zarr.
        episodes: How many demonstrations.
        seed: Draws the cubes, the meeting points, the tremor and the latencies.
        fps: Frames per second of the cameras, up to 50; joints are recorded at 50 Hz (in hdf5 and zarr at `fps`).
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        jpeg_quality: Of the images, 1 to 95.

    """
    out.mkdir(parents=True, exist_ok=True)
    settings = CameraSettings(fps=fps, height=height, width=width, jpeg_quality=jpeg_quality)
    written, buffer = [], []
    for episode in range(episodes):
        demonstration = _demonstrate(seed, episode, settings)
        match format:
            case "mcap":
                written.append(out / f"transfer_cube_{episode:03d}.mcap")
                write_mcap(written[-1], demonstration, np.random.default_rng([seed, episode, 1]))
            case "hdf5":
                written.append(out / f"transfer_cube_{episode:03d}.hdf5")
                write_hdf5(written[-1], demonstration)
            case "zarr":
                buffer.append(demonstration)
    if buffer:
        written.append(out / "transfer_cube.zarr.zip")
        write_zarr(written[-1], buffer)
    for path in written:
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return written


def _demonstrate(seed: int, episode: int, settings: CameraSettings) -> Demonstration:
    demonstration = simulate(Scene.draw(np.random.default_rng([seed, episode])), episode=episode, settings=settings)
    images = sum(len(track.jpegs) for track in demonstration.cameras.values())
    steps = len(demonstration.command)
    print(f"seed {seed}, episode {episode}: reward {demonstration.reward} of {TRANSFERRED}, {steps} steps, {images} images")
    if demonstration.reward != TRANSFERRED:
        raise SystemExit(f"episode {episode} of seed {seed} failed: the left arm does not have the cube; choose another seed")
    return demonstration


if __name__ == "__main__":
    import tyro

    tyro.cli(record)
