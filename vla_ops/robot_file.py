"""Read `robots/<name>/defs.yaml` without Dagster, with the file and line of every mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vla_ops.errors import SpecError
from vla_ops.robot import RobotSpec

COMPONENT_TYPE = "vla_ops.RobotPipeline"
_ENV = re.compile(r"\{\{\s*env(?:\.(?P<dot>\w+)|\(\s*['\"](?P<call>\w+)['\"]\s*(?:,\s*['\"](?P<default>[^'\"]*)['\"]\s*)?\))\s*\}\}")


@dataclass(frozen=True)
class Robot:
    """A robot's name (its folder's), its folder and its spec."""

    name: str
    folder: Path
    spec: RobotSpec

    @property
    def recordings_uri(self) -> str:
        """The recordings root: a URI as written, or a path made absolute against the robot's folder."""
        uri = self.spec.recordings.uri
        return uri if "://" in uri else str((self.folder / Path(uri).expanduser()).resolve())


def load_robot(folder: str | Path) -> Robot:
    """Load the robot in `folder`. Raise SpecError with file:line and the nearest valid key or value."""
    folder = Path(folder).resolve()
    path = folder / "defs.yaml"
    if not path.is_file():
        raise SpecError("no such robot", file=path, todo=f"Folders with a defs.yaml: {', '.join(_neighbours(folder)) or 'none'}")
    text = path.read_text(encoding="utf-8")
    try:
        document = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SpecError(f"not YAML: {error}", file=path) from error
    if not isinstance(document, dict) or document.get("type") != COMPONENT_TYPE or "attributes" not in document:
        raise SpecError(f"a robot's YAML has `type: {COMPONENT_TYPE}` and `attributes:`", file=path)
    try:
        return Robot(folder.name, folder, RobotSpec.model_validate(resolve_env(document["attributes"])))
    except ValidationError as error:
        lines = [f"{path}:{_line(tree, ('attributes', *_loc(e)))}: {'.'.join(map(str, _loc(e)))}: {_said(e)}" for e in error.errors()]
        raise SpecError("\n".join(["the robot's YAML has mistakes", *lines]), file=path) from error
    except KeyError as error:
        raise SpecError(f"environment variable {error.args[0]} is not set", file=path, todo=f"Run: export {error.args[0]}=...") from error


def resolve_env(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Replace `{{ env.NAME }}` and `{{ env('NAME', 'default') }}` in every string. Raise KeyError(NAME) where it is not set."""
    if isinstance(value, str):
        return _ENV.sub(lambda m: environ[m["dot"] or m["call"]] if m["default"] is None else environ.get(m["call"], m["default"]), value)
    if isinstance(value, dict):
        return {k: resolve_env(v, environ) for k, v in value.items()}
    return [resolve_env(v, environ) for v in value] if isinstance(value, list) else value


def _loc(error: Any) -> tuple[str | int, ...]:
    key = error.get("ctx", {}).get("key") if error["type"] == "unknown_key" else None
    return error["loc"] if key is None else (*error["loc"], key)


def _said(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def _line(node: yaml.Node | None, loc: tuple[str | int, ...]) -> int:
    """The line of the deepest YAML node on the way to `loc` (pydantic puts union branch names in it; they are skipped)."""
    line = 1
    for key in loc:
        if isinstance(node, yaml.MappingNode):
            hit = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if hit is not None:
                line, node = hit[0].start_mark.line + 1, hit[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            item: yaml.Node = node.value[key]
            line, node = item.start_mark.line + 1, item
    return line


def _neighbours(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.parent.glob("*/defs.yaml"))
