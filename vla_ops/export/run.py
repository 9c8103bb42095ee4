"""Export: checkpoint to PyTorch in one of two layouts, gated; the one path of the asset and of `vla-ops export`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import EXPORT_FILE
from vla_ops.errors import CheckpointError, StoreError
from vla_ops.export.adapter import BASE, rows, write_adapter
from vla_ops.export.adapter_torch import require_peft
from vla_ops.export.convert import write_weights
from vla_ops.export.gate import Asked, run_gate
from vla_ops.export.lerobot_layout import WEIGHTS, write_lerobot
from vla_ops.export.openpi_layout import write_openpi
from vla_ops.export.parity import ParityReport
from vla_ops.export.parity_plot import write_plot
from vla_ops.export.plan import Layout, Lora, Precision
from vla_ops.export.samples import FEWEST, Samples, held_out_samples, made_up_samples
from vla_ops.export.source import ExportSource, describe
from vla_ops.files import replacing, write_json
from vla_ops.policies import write_stats

PARITY_FILE, PARITY_PLOT = "parity.json", "parity.png"


@dataclass(frozen=True, eq=False)
class Exported:
    """An export that passed the gate."""

    folder: Path
    report: ParityReport


def export(
    source: ExportSource,
    out: Path,
    *,
    layout: Layout = "lerobot",
    precision: Precision = "bfloat16",
    lora: Lora = "merge",
    samples: Samples | None = None,
    dataset: Path | None = None,
    steps: int = 10,
    at_once: int = 8,
    replace: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write the export to the folder `out`, where nothing is until the models agree.

    LoRA is merged, or kept as a PEFT adapter with the policy that it is added to in the folder `base`. Without `samples`
    they are held-out frames of the run's dataset (or where that is now, `dataset`), or made up where no run is known.
    Raise ParityError, naming the first layer, where the models do not agree: then there is no export.
    """
    require_can_keep(source, layout, lora)
    if out.exists() and not replace:
        raise StoreError("there is something at the export's place already", file=out, todo="Take another folder, or remove it.")
    shown = samples or samples_for(source, dataset=dataset)
    asked = Asked(layout, precision, lora, steps, at_once)
    with replacing(out.absolute()) as work:
        work.mkdir()
        say(f"converting {source.checkpoint}: {source.architecture}")
        _write(work, out.absolute(), source, asked)
        write_stats(work / "assets" / source.asset_id, source.stats)
        write_json(work / EXPORT_FILE, about(source, layout, precision, lora))
        report = run_gate(work, source, shown, asked, say=say)
        say(report.render())
        report.require()
        write_json(work / PARITY_FILE, report.to_json())
        write_plot(work / PARITY_PLOT, report)
    return Exported(out.absolute(), report)


def _write(work: Path, out: Path, source: ExportSource, asked: Asked) -> None:
    """Weights and configuration of what will be the folder `out`."""
    given: Any = {"alphas": source.alphas}
    folder = work
    if asked.lora == "adapter":
        folder = work / BASE
        folder.mkdir()
        write_adapter(work, source.plan, source.read, base=out / BASE, **given)
    write_weights(folder / WEIGHTS, source.plan, source.read, layout=asked.layout, precision=asked.precision, lora=asked.lora, **given)
    if asked.layout == "lerobot":
        write_lerobot(work, source, asked.precision, asked.lora)
    else:
        write_openpi(work, source, asked.precision)


def require_can_keep(source: ExportSource, layout: Layout, lora: Lora) -> None:
    """Raise CheckpointError where LoRA is to be kept as an adapter and cannot be."""
    if lora == "merge":
        return
    todo = "Leave --lora out (in a YAML `lora`)"
    if layout != "lerobot":
        todo = f"{todo}: then it is merged; or export with --layout lerobot."
        raise CheckpointError("an adapter is kept in LeRobot's layout alone: openpi's PyTorch model has none", found=layout, todo=todo)
    if not source.plan.factors:
        said = "the checkpoint has no LoRA factors, so there is nothing to keep as an adapter"
        raise CheckpointError(said, file=source.checkpoint, found=str(source.architecture), todo=f"{todo}: a model without LoRA is whole.")
    require_peft()


def samples_for(source: ExportSource, *, dataset: Path | None = None, count: int = FEWEST) -> Samples:
    """What the models are compared on: held-out frames where a run is known, else made up ones."""
    if source.run is not None and source.transforms is not None:
        return held_out_samples(source.run.recipe, source.transforms, source.asset_id, count=count, dataset=dataset)
    return made_up_samples(source.config, count=count)


def about(source: ExportSource, layout: Layout, precision: Precision, lora: Lora = "merge") -> dict[str, Any]:
    """What vla_ops.json says of an export: of what it was made and how every tensor came about."""
    run = source.run
    return {
        "layout": layout,
        "precision": precision,
        "checkpoint": str(source.checkpoint),
        "run": None if run is None else {"name": run.folder.name, "robot": run.recipe.robot, "training": run.recipe.name},
        "recipe": None if run is None else run.recipe.to_json(),
        "family": source.config.family,
        "architecture": asdict(source.architecture),
        "model": describe(source.config),
        "lora": _lora(source, lora) if source.plan.factors else None,
        "asset_id": source.asset_id,
        "stats_fingerprint": source.stats.fingerprint,
        "transforms_fingerprint": None if source.transforms is None else source.transforms.fingerprint,
        "conversion": [*source.plan.rows(lora), *(rows(source.plan) if lora == "adapter" else ())],
    }


def _lora(source: ExportSource, lora: Lora) -> dict[str, Any]:
    return {"merged" if lora == "merge" else "adapter": sorted(source.plan.factors), "alpha_over_rank": asdict(source.alphas)}
