"""The way back: a LeRobot pi0 / pi0.5 policy or an openpi-pytorch checkpoint as a JAX checkpoint in openpi's layout, through the same gate.

    bring_back(Path("export"), Path("checkpoints/from_torch/0"), say=print)

What comes out is what `init:` of a training, `vla-ops export` and openpi itself take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.checkpoints.integrity import write_checksums
from vla_ops.checkpoints.layout import ASSETS, PARAMS, Checkpoint
from vla_ops.checkpoints.reading import read_params, read_specs
from vla_ops.checkpoints.trees import params_tree
from vla_ops.errors import CheckpointError, StoreError
from vla_ops.export.jax_side import jax_outputs
from vla_ops.export.lora import Alphas
from vla_ops.export.parity import Joint, ParityReport, Row, compare, compare_joints, first_difference, in_robot_units, joint_row
from vla_ops.export.parity_plot import write_plot
from vla_ops.export.plan import Plan, make_plan
from vla_ops.export.samples import Samples, held_out_samples, made_up_samples
from vla_ops.export.source import ExportSource, shapes_of
from vla_ops.export.table import EMBEDDING, TIED, UNUSED, put
from vla_ops.export.torch_folder import TorchFolder, open_torch_folder
from vla_ops.export.torch_side import build_model, load_weights, opened_weights, torch_layers, torch_outputs
from vla_ops.files import replacing, write_json
from vla_ops.policies import write_stats

_PREFIX = "model."


@dataclass(frozen=True, eq=False)
class BroughtBack:
    """A JAX checkpoint that computes what the PyTorch one does."""

    folder: Path
    report: ParityReport


@dataclass(frozen=True)
class _Asked:
    steps: int
    at_once: int
    say: Callable[[str], None]


def bring_back(
    folder: Path,
    out: Path,
    *,
    assets: Path | None = None,
    samples: Samples | None = None,
    steps: int = 10,
    at_once: int = 8,
    say: Callable[[str], None] = lambda _: None,
) -> BroughtBack:
    """Write the step folder `out` with params and assets, float32, where nothing is until the models agree.

    All parameters are in memory at once. `assets` is the folder of a norm_stats.json where the policy has none. Raise CheckpointError
    for a policy of another kind, or with tensors too many or too few, ParityError where the models do not agree.
    """
    if out.exists():
        raise StoreError("there is something at the checkpoint's place already", file=out, todo="Take another folder.")
    torch_folder = open_torch_folder(folder, assets=assets)
    shapes = shapes_of(torch_folder.config)
    plan = make_plan(shapes)
    with replacing(out.absolute()) as work:
        work.mkdir()
        say(f"converting {folder}: {plan.architecture}")
        _save(work / PARAMS, read_back(torch_folder.weights, plan))
        write_stats(work / ASSETS / torch_folder.asset_id, torch_folder.stats)
        write_checksums(work)
        report = _gate(work, torch_folder, plan, samples, _Asked(steps, at_once, say))
        say(report.render())
        report.require()
        write_json(work / "parity.json", report.to_json())
        write_plot(work / "parity.png", report)
    return BroughtBack(out.absolute(), report)


def read_back(file: Path, plan: Plan) -> dict[str, np.ndarray]:
    """Every parameter by openpi's path, float32. Raise CheckpointError, naming it, for a tensor too many, too few or of another shape."""
    with _tensors(file) as (shapes, read):
        _require_all(file, shapes, plan)
        params = {}
        for source, pieces in plan.by_source().items():
            array = params[source] = np.empty(plan.sources[source], np.float32)
            for piece in pieces:
                if piece.rule is not None:
                    put(piece.rule, read(_stored(piece.target, shapes)), array if piece.layer is None else array[piece.layer])
    return params


@contextmanager
def _tensors(file: Path) -> Iterator[tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray]]]:
    """Shapes by name without `model.`, and what reads one as float32."""
    with opened_weights(file) as stored:
        names = {name.removeprefix(_PREFIX): name for name in sorted(stored.keys())}
        shapes = {short: tuple(stored.get_slice(name).get_shape()) for short, name in names.items()}
        yield shapes, lambda short: stored.get_tensor(names[short]).float().numpy()


def _stored(target: str, shapes: Mapping[str, Any]) -> str:
    return TIED if target == EMBEDDING and TIED in shapes else target


def _require_all(file: Path, shapes: Mapping[str, tuple[int, ...]], plan: Plan) -> None:
    wanted = {_stored(piece.target, shapes): piece.shape for piece in plan.pieces if piece.rule is not None}
    wrong = [f"{name} {list(shape)}: not in the file" for name, shape in wanted.items() if name not in shapes]
    there = [name for name in wanted if name in shapes]
    wrong += [f"{name}: {list(shapes[name])} instead of {list(wanted[name])}" for name in there if shapes[name] != wanted[name]]
    left = [name for name in shapes if name not in {*wanted, UNUSED, EMBEDDING}]
    wrong += [f"{name} {list(shapes[name])}: no array is made of it" for name in left]
    if wrong:
        raise CheckpointError(
            f"the tensors are not those of {plan.architecture}",
            file=file,
            array=wrong[0].partition(" ")[0].rstrip(":"),
            found="; ".join(wrong[:6]) + (f"; {len(wrong) - 6} more" if len(wrong) > 6 else ""),
            todo="Is its config.json the one it was saved with, and are PEFT adapters merged into it?",
        )


def _save(folder: Path, params: Mapping[str, Any]) -> None:
    import orbax.checkpoint as ocp
    from etils import epath

    with ocp.PyTreeCheckpointer() as writer:
        writer.save(epath.Path(folder), ocp.args.PyTreeSave(params_tree(params)))


def _gate(work: Path, given: TorchFolder, plan: Plan, samples: Samples | None, asked: _Asked) -> ParityReport:
    checkpoint = Checkpoint(work, work / PARAMS)
    known = (Alphas(), given.asset_id, given.stats, None, given.transforms)
    source = ExportSource(checkpoint, read_specs(checkpoint), plan, given.config, *known)
    shown = samples or _samples(given)
    asked.say("parity: the PyTorch model in float32")
    model = build_model(source.config, plan.architecture, "float32")
    load_weights(model, given.weights)
    expected = torch_outputs(model, shown, steps=asked.steps, at_once=asked.at_once)
    asked.say("parity: the JAX model in float32, then in bfloat16")
    params = read_params(checkpoint)
    rows: list[Row] = []
    joints: list[Joint] = []
    for precision in ("float32", "bfloat16"):
        cast = params if precision == "float32" else {path: _rounded(array) for path, array in params.items()}
        config = replace(source.config, dtype=precision)
        found = jax_outputs(config, cast, shown, steps=asked.steps, at_once=asked.at_once)
        units = [in_robot_units(chunk, source, shown) for chunk in (expected.chunk, found.chunk)]
        per_joint = compare_joints(units[0], units[1], source, precision, how="the model alone")
        rows += [*compare(expected, found, precision), joint_row(per_joint, expected.chunk)]
        joints += per_joint
    first = None
    if not all(row.passes for row in rows):
        first = first_difference(source, params, lambda few: torch_layers(model, few), shown, limit=rows[0].limit)
    return ParityReport(
        direction="PyTorch to JAX checkpoint",
        rows=tuple(rows),
        joints=tuple(joints),
        origin=shown.origin,
        places=shown.places,
        masked=tuple(shown.masked_cameras()),
        tensors=len(plan.pieces) + 1,
        first_difference=first,
    )


def _samples(torch_folder: TorchFolder) -> Samples:
    recipe, transforms = torch_folder.recipe, torch_folder.transforms
    if recipe is not None and transforms is not None and recipe.dataset.is_dir():
        return held_out_samples(recipe, transforms, torch_folder.asset_id)
    return made_up_samples(torch_folder.config)


def _rounded(array: np.ndarray) -> np.ndarray:
    import ml_dtypes

    return array.astype(ml_dtypes.bfloat16)
