"""Both models run and compared: the one that was trained, and the one in the export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.checkpoints.reading import read_params
from vla_ops.errors import ParityError
from vla_ops.export.adapter import base_of
from vla_ops.export.adapter_torch import attach
from vla_ops.export.convert import tensors
from vla_ops.export.jax_side import Outputs, jax_outputs
from vla_ops.export.lerobot_gate import load_for_gate, through_lerobot
from vla_ops.export.lerobot_layout import WEIGHTS, LeRobotPolicy
from vla_ops.export.parity import Float64, Joint, ParityReport, Row, compare, compare_joints, first_difference, in_robot_units, joint_row
from vla_ops.export.plan import Layout, Lora, Precision, stored_name
from vla_ops.export.samples import Samples
from vla_ops.export.source import ExportSource
from vla_ops.export.table import EMBEDDING, TIED
from vla_ops.export.torch_side import build_model, load_weights, require_same_tensors, torch_layers, torch_outputs

if TYPE_CHECKING:
    import torch

_MODEL, _LEROBOT = "the model alone", "through LeRobot's processors"


@dataclass(frozen=True)
class Asked:
    """How an export is compared."""

    layout: Layout
    precision: Precision
    lora: Lora = "merge"
    steps: int = 10
    # Samples that a model is given at once: fewer need less memory.
    at_once: int = 8


def run_gate(folder: Path, source: ExportSource, samples: Samples, asked: Asked, *, say: Callable[[str], None]) -> ParityReport:
    """Compare the export in `folder` with its checkpoint in float32 and in bfloat16, and return the report, passed or not.

    An export in bfloat16 is compared twice: its numbers before they are rounded in float32, and the file as it is. One of the two
    models is in memory at a time, but for where a layer that disagrees is looked for.
    """
    say("parity: the trained model in float32")
    params = _widened(read_params(source.checkpoint, check=False))
    config = replace(source.config, dtype="float32")
    reference = jax_outputs(config, params, samples, steps=asked.steps, at_once=asked.at_once)
    del params
    gate = _Gate(folder, source, samples, asked, reference)
    for precision in ("float32", "bfloat16"):
        say(f"parity: the exported model in {precision}")
        gate.compare_in(precision)
    return ParityReport(
        direction="JAX checkpoint to PyTorch",
        rows=tuple(gate.rows),
        joints=tuple(gate.joints),
        origin=samples.origin,
        places=samples.places,
        masked=tuple(samples.masked_cameras()),
        tensors=gate.tensors,
        first_difference=gate.first,
        notes=tuple(gate.notes),
    )


@dataclass(eq=False)
class _Gate:
    """One export being compared with what its checkpoint computes; the lists grow with each precision."""

    folder: Path
    source: ExportSource
    samples: Samples
    asked: Asked
    reference: Outputs
    rows: list[Row] = field(default_factory=list)
    joints: list[Joint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tensors: int = 0
    first: str | None = None

    @property
    def file(self) -> Path:
        """The weights of the model's own layers."""
        return base_of(self.folder) / WEIGHTS

    def compare_in(self, precision: Precision) -> None:
        """Compare the model alone, and where it is the export's own precision and layout, the whole way through LeRobot."""
        loaded = self._through_lerobot(precision)
        model = self._model(precision) if loaded is None else loaded.model
        outputs = torch_outputs(model, self.samples, steps=self.asked.steps, at_once=self.asked.at_once)
        rows = compare(self.reference, outputs, precision)
        joints = compare_joints(self._units(self.reference), self._units(outputs), self.source, precision, how=_MODEL)
        rows.append(joint_row(joints, self.reference.chunk))
        if loaded is not None and self.samples.observation is not None:
            more, of = self._whole_way(loaded)
            rows, joints = rows + more, joints + of
        self.rows += rows
        self.joints += joints
        if self.first is None and not all(row.passes for row in rows):
            params = _widened(read_params(self.source.checkpoint, check=False))
            self.first = first_difference(self.source, params, partial(torch_layers, model), self.samples, limit=rows[0].limit)

    def _through_lerobot(self, precision: Precision) -> LeRobotPolicy | None:
        if self.asked.layout != "lerobot" or precision != self.asked.precision:
            return None
        loaded, note = load_for_gate(self.folder, self.source)
        self.notes += [note] if note else []
        self.tensors = max(self.tensors, loaded.tensors)
        return loaded

    def _model(self, precision: Precision) -> torch.nn.Module:
        """A model with the weights of the file, or, in float32 for a bfloat16 file, those that it was rounded from."""
        model = build_model(self.source.config, self.source.architecture, precision)
        count = 0
        if self.asked.precision in (precision, "float32"):
            load_weights(model, self.file)
            count = require_same_tensors(model.state_dict(), self.file)
        else:
            self._fill_unrounded(model)
        if self.asked.lora == "adapter":
            count += attach(model, self.folder)
        self.tensors = max(self.tensors, count)
        return model

    def _fill_unrounded(self, model: torch.nn.Module) -> None:
        """Fill the model from the checkpoint, and compare each tensor of the file with it, rounded, bit for bit."""
        import torch
        from safetensors import safe_open

        state = model.state_dict()
        with torch.no_grad(), safe_open(self.file, "pt") as stored:
            for piece, array in tensors(self.source.plan, self.source.read, self.source.alphas, lora=self.asked.lora):
                tensor = torch.from_numpy(array.astype("float32"))
                there = stored.get_tensor(stored_name(piece.target, self.asked.layout))
                if not torch.equal(tensor.to(there.dtype), there):
                    raise ParityError("a tensor of the file is not that of the checkpoint, rounded", file=self.file, array=piece.target)
                for name in (EMBEDDING, TIED) if piece.target == EMBEDDING else (piece.target,):
                    state[name].copy_(tensor)

    def _whole_way(self, loaded: LeRobotPolicy) -> tuple[list[Row], list[Joint]]:
        chunks, tokens = through_lerobot(loaded, self.source, self.samples, steps=self.asked.steps)
        joints = compare_joints(self._units(self.reference), chunks, self.source, tokens.precision, how=_LEROBOT)
        return [tokens, joint_row(joints, self.reference.chunk)], joints

    def _units(self, outputs: Outputs) -> Float64:
        return in_robot_units(outputs.chunk, self.source, self.samples)


def _widened(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in float32: a frozen bfloat16 one is exactly that number."""
    return {path: array.astype("float32") for path, array in params.items()}
