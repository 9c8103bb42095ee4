"""Conversion of a checkpoint array by array against all at once: time and peak memory of both, each in a process of its own.

    python -m benchmarks.export                 a random checkpoint of 0.5 billion parameters, 2 GB
    python -m benchmarks.export --layers 18     the full-size pi0.5: 13 GB of disk twice, and memory for all of it

The peer reads the whole checkpoint and writes with `safetensors.torch.save_file`, as openpi's converter does. With OPENPI_ROOT (openpi's
checkout) and OPENPI_PYTHON (an interpreter that has what it needs), the functions of openpi's own script stand beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.pi0_process import PYTHON_VARIABLE, ROOT_VARIABLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="of 18; all other sizes are pi0.5's")
    parser.add_argument("--one", choices=("streamed", "at_once"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one, asked.folder)))
        return
    with tempfile.TemporaryDirectory() as made:
        # openpi tells pi0.5 by the path.
        folder = Path(made) / "pi05"
        largest = write_checkpoint(folder / "checkpoint/params", asked.layers)
        found = {name: in_own_process(name, folder) for name in ("streamed", "at_once")}
        if ROOT_VARIABLE in os.environ:
            found["openpi's"] = in_openpis(folder, asked.layers)
        else:
            print(f"{ROOT_VARIABLE} is not set: openpi's script is not measured")
    streamed = found.pop("streamed")
    print(f"largest array {largest / 1e9:.2f} GB")
    print(f"streamed  {streamed['seconds']:7.1f} s  peak {streamed['peak'] / 1e9:5.2f} GB")
    for name, peer in found.items():
        ratios = f"streamed / {name}: time {streamed['seconds'] / peer['seconds']:.2f}, peak memory {streamed['peak'] / peer['peak']:.2f}"
        print(f"{name:<9} {peer['seconds']:7.1f} s  peak {peer['peak'] / 1e9:5.2f} GB   {ratios}")


def write_checkpoint(folder: Path, layers: int) -> int:
    """Write random parameters of a pi0.5 of so many layers; return the bytes of the largest array."""
    import orbax.checkpoint as ocp
    from etils import epath

    from vla_ops.checkpoints.trees import params_tree
    from vla_ops.export.source import shapes_of
    from vla_ops.models.config import GEMMA, SIGLIP, ModelConfig

    experts = [dataclasses.replace(GEMMA[name], depth=layers) for name in ("gemma_2b", "gemma_300m")]
    tower = dataclasses.replace(SIGLIP["So400m/14"], depth=max(1, 27 * layers // 18))
    shapes = shapes_of(ModelConfig("pi05", paligemma=experts[0], action_expert=experts[1], siglip=tower, vocab_size=257_152 * layers // 18))
    rng = np.random.default_rng(0)
    params = {path: rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(epath.Path(folder), ocp.args.PyTreeSave(params_tree(params)))
    return max(array.nbytes for array in params.values())


def in_own_process(name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.export", "--one", name, "--folder", str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def in_openpis(folder: Path, layers: int) -> dict[str, float]:
    root = Path(os.environ[ROOT_VARIABLE])
    paths = [str(root / "src"), str(root / "packages/openpi-client/src"), str(Path(__file__).resolve().parent.parent)]
    python = os.environ.get(PYTHON_VARIABLE, str(root / ".venv/bin/python"))
    command = [python, "-m", "benchmarks.export_openpi", str(root), str(folder / "checkpoint"), str(folder / "openpi.safetensors")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*command, str(layers)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, folder: Path) -> dict[str, float]:
    from vla_ops.checkpoints.layout import open_checkpoint
    from vla_ops.checkpoints.reading import read_params, read_specs
    from vla_ops.export.convert import reader_of, tensors, write_weights
    from vla_ops.export.lora import Alphas
    from vla_ops.export.plan import kept_dtype, make_plan

    checkpoint, began = open_checkpoint(folder / "checkpoint"), time.perf_counter()
    plan = make_plan(read_specs(checkpoint))
    if name == "streamed":
        file = folder / "streamed.safetensors"
        write_weights(file, plan, reader_of(checkpoint), alphas=Alphas(), layout="openpi", precision="bfloat16")
    else:
        import torch
        from safetensors.torch import save_file

        params = read_params(checkpoint)
        made = tensors(plan, params.__getitem__, Alphas())
        kept = {piece.target: getattr(torch, kept_dtype(piece.target, "bfloat16", "openpi")) for piece in plan.pieces}
        state = {piece.target: torch.from_numpy(np.ascontiguousarray(tensor)).to(kept[piece.target]) for piece, tensor in made}
        save_file(state, folder / "at_once.safetensors")
    return {"seconds": time.perf_counter() - began, "peak": peak_bytes()}


def peak_bytes() -> int:
    """Most memory that this process had at any time."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
