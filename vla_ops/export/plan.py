"""Plan: every array of a checkpoint against every tensor of the model, before a number is read; what is left over is an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vla_ops.checkpoints.architecture import Architecture, architecture_of
from vla_ops.errors import CheckpointError
from vla_ops.export.lora import Factors, find_factors
from vla_ops.export.table import EMBEDDING, TIED, UNUSED, Rule, rules_of, shape_of

type Layout = Literal["openpi", "lerobot"]
# What becomes of LoRA's factors: folded into their weights, or kept beside them for PEFT.
type Lora = Literal["merge", "adapter"]
type Precision = Literal["float32", "bfloat16"]
# What each loader holds in float32 in a bfloat16 model: stored so too, or it would be rounded first and widened after.
_FLOAT32: dict[str, tuple[str, ...]] = {
    "openpi": ("patch_embedding", "position_embedding", "input_layernorm", "post_attention_layernorm", "model.norm"),
    "lerobot": ("vision_tower", "multi_modal_projector", "input_layernorm", "post_attention_layernorm", "model.norm"),
}
_SHOWN = 8


@dataclass(frozen=True)
class Piece:
    """One tensor: by which rule, of which layer of the source; without a rule it is zeros."""

    target: str
    shape: tuple[int, ...]
    rule: Rule | None
    layer: int | None = None


@dataclass(frozen=True)
class Plan:
    """What becomes what. `pieces` are in the order of their sources."""

    architecture: Architecture
    pieces: tuple[Piece, ...]
    factors: Mapping[str, Factors]
    sources: Mapping[str, tuple[int, ...]]

    def by_source(self) -> dict[str, list[Piece]]:
        """The pieces of each source."""
        found: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            if piece.rule is not None:
                found.setdefault(piece.rule.source, []).append(piece)
        return found

    def rows(self, lora: Lora = "merge") -> list[dict[str, Any]]:
        """The table of what became what, one row a rule, for people and for JSON."""
        rows = []
        for source, pieces in self.by_source().items():
            for rule in dict.fromkeys(piece.rule for piece in pieces if piece.rule):
                of = [piece for piece in pieces if piece.rule == rule]
                merged = "; LoRA merged" if source in self.factors and lora == "merge" else ""
                row = {"source": source, "shape": list(self.sources[source]), "axes": f"{rule.axes}{merged}"}
                rows.append(row | {"target": rule.target, "target_shape": list(of[0].shape), "tensors": len(of)})
        rows += [
            {"source": None, "shape": None, "axes": "zeros", "target": piece.target, "target_shape": list(piece.shape), "tensors": 1}
            for piece in self.pieces
            if piece.rule is None
        ]
        return rows


def make_plan(specs: Mapping[str, Any]) -> Plan:
    """The plan for `{path: anything with a shape}`. Raise CheckpointError naming each array that no tensor takes, and the reverse."""
    shapes = {path: tuple(getattr(spec, "shape", spec)) for path, spec in specs.items()}
    architecture = architecture_of(shapes)
    factors = find_factors(shapes)
    rules = rules_of(architecture.family)
    read = {rule.source for rule in rules} | {path for pair in factors.values() for path in (pair.a, pair.b)}
    wrong = [f"{path} {list(shapes[path])}: no tensor is made of it" for path in shapes if path not in read]
    wrong += [f"{rule.target}: no array {rule.source} in the checkpoint" for rule in rules if rule.source not in shapes]
    wrong += [wrong for rule in rules if rule.source in shapes and (wrong := _misfit(rule, shapes[rule.source]))]
    if wrong:
        raise _left_over(wrong, architecture)
    pieces = [piece for rule in rules for piece in _pieces(rule, shapes[rule.source])]
    unused = Piece(UNUSED, (architecture.vocabulary, architecture.action_expert.width), None)
    _check_lora(factors, shapes)
    return Plan(architecture, (*pieces, unused), factors, shapes)


def kept_dtype(target: str, precision: Precision, layout: Layout) -> Precision:
    """The dtype in which a tensor is stored: in a bfloat16 export, float32 where the model that loads it has float32."""
    if precision == "float32" or not target.startswith("paligemma_with_expert."):
        return "float32"
    return "float32" if any(part in target for part in _FLOAT32[layout]) else "bfloat16"


def stored_name(target: str, layout: Layout) -> str:
    """The name of a tensor in the file of a layout; the embedding stands under its tied name."""
    name = TIED if target == EMBEDDING else target
    return f"model.{name}" if layout == "lerobot" else name


def _pieces(rule: Rule, source: tuple[int, ...]) -> Iterator[Piece]:
    shape = shape_of(rule, source)
    if not rule.by_layer:
        yield Piece(rule.target, shape, rule)
        return
    for layer in range(source[0]):
        yield Piece(rule.target.format(layer=layer), shape, rule, layer)


def _misfit(rule: Rule, source: tuple[int, ...]) -> str | None:
    """Why a source cannot be of this rule: another number of axes, or places on a numbered axis that no rule takes."""
    if len(source) != len(rule.of):
        return f"{rule.source} {list(source)}: has {len(source)} axes instead of {len(rule.of)} ({rule.axes.partition('->')[0].strip()})"
    numbered = {rule_.of[k] for rule_ in rules_of("pi0") + rules_of("pi05") if rule_.source == rule.source for k in _numbered(rule_)}
    for k in _numbered(rule):
        if source[k] != len(numbered):
            return f"{rule.source} {list(source)}: axis {k} has {source[k]} places, and tensors are made of {len(numbered)}"
    return None


def _numbered(rule: Rule) -> list[int]:
    return [k for k, name in enumerate(rule.of) if name.isdecimal()]


def _check_lora(factors: Mapping[str, Factors], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for pair in factors.values():
        weight, a, b = shapes[pair.weight], shapes[pair.a], shapes[pair.b]
        if (*weight[:-1], a[-1]) != a or (*weight[:-2], a[-1], weight[-1]) != b:
            raise CheckpointError(
                "LoRA factors do not fit their weight", array=pair.weight, found=f"{list(a)} and {list(b)}", expected=list(weight)
            )


def _left_over(wrong: list[str], architecture: Architecture) -> CheckpointError:
    shown = "; ".join(wrong[:_SHOWN]) + (f"; {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
    return CheckpointError(
        f"the checkpoint looks like {architecture}, and does not come out even with it",
        array=wrong[0].partition(" ")[0].rstrip(":"),
        found=shown,
        expected="every array used and every tensor made",
        todo="Nothing is left out in silence: is it a checkpoint of another model, or one that something was added to?",
    )
