"""Read `robots/<name>/defs.yaml` without Dagster, with the file and line of every mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vla_ops.errors import SpecError
from vla_ops.robot import RobotSpec

_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
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
    if not _NAME.match(folder.name):
        todo = "Rename the folder with letters, digits and underscores."
        raise SpecError("a robot is named after its folder, and Dagster cannot have this name", file=folder, found=folder.name, todo=todo)
    tree, document = _parse(path)
    if mistakes := [*_doubled(tree), *_not_a_robot(document)]:
        raise _mistaken(path, mistakes)
    try:
        return Robot(folder.name, folder, RobotSpec.model_validate(resolve_env(document["attributes"])))
    except ValidationError as error:
        raise _mistaken(path, _mistakes(tree, error)) from error
    except KeyError as error:
        raise SpecError(f"environment variable {error.args[0]} is not set", file=path, todo=f"Run: export {error.args[0]}=...") from error


def _parse(path: Path) -> tuple[yaml.Node | None, Any]:
    """The YAML as nodes, which know their lines, and as values."""
    # The C parser is six times as fast, which twenty robots feel.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_text(encoding="utf-8"))
    try:
        tree = loader.get_single_node()
        return tree, None if tree is None else loader.construct_document(tree)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        said = f"not YAML: {error.problem} (a source with [ ] inside {{ }} needs quotes; indent with spaces)"
        raise _mistaken(path, [_Mistake(line, said)]) from error
    finally:
        loader.dispose()


@dataclass(frozen=True)
class _Mistake:
    line: int
    said: str


def _mistaken(path: Path, mistakes: Sequence[_Mistake]) -> SpecError:
    lines = [f"{path}:{mistake.line}: {mistake.said}" for mistake in sorted(set(mistakes), key=lambda m: m.line)]
    return SpecError("\n".join(["the robot's YAML has mistakes", *lines]))


def _doubled(node: yaml.Node | None) -> Iterator[_Mistake]:
    """Keys that are there twice. YAML takes the last of them and says nothing: a camera copied and not renamed is lost."""
    for value in node.value if isinstance(node, yaml.SequenceNode) else ():
        yield from _doubled(value)
    first: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        line = key.start_mark.line + 1
        if key.value in first:
            yield _Mistake(line, f"{key.value}: is already at line {first[key.value]}; only one of them would count")
        first.setdefault(key.value, line)
        yield from _doubled(value)


def _not_a_robot(document: Any) -> Iterator[_Mistake]:
    if not isinstance(document, dict):
        yield _Mistake(1, f"empty; a robot's YAML has `type: {COMPONENT_TYPE}` and `attributes:`")
    elif document.get("type") != COMPONENT_TYPE:
        yield _Mistake(1, f"type: found {document.get('type')!r}, expected {COMPONENT_TYPE}")
    elif not isinstance(document.get("attributes"), dict):
        yield _Mistake(1, "attributes: there are none; they say what the robot is (see robots/aloha_sim/defs.yaml)")


def _mistakes(tree: yaml.Node | None, error: ValidationError) -> list[_Mistake]:
    found = [e for e in error.errors() if not _of_another_branch(e, error)]
    return [_Mistake(_line(tree, ("attributes", *_loc(e))), f"{_where(e)}{_said(e)}") for e in found]


def _of_another_branch(error: Any, of: ValidationError) -> bool:
    """True for what pydantic says of the forms of a key that were not meant: `action` is a list, or a mapping like {from: next_state}."""
    is_branch = [str(key)[:1].isupper() or "[" in str(key) for key in error["loc"]]
    if True not in is_branch or error["type"] not in {"model_type", "list_type", "float_type", "literal_error", "model_attributes_type"}:
        return False
    stem = error["loc"][: is_branch.index(True)]
    return sum(e["loc"][: len(stem)] == stem for e in of.errors()) > 1


def _where(error: Any) -> str:
    """The keys on the way to a mistake, without the names that pydantic gives the branches of a union."""
    keys = [str(key) for key in _loc(error) if not (str(key)[:1].isupper() or "[" in str(key))]
    return f"{'.'.join(keys)}: " if keys else ""


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
    said = str(error["msg"]).removeprefix("Value error, ")
    is_plain = isinstance(error["input"], str | int | float) and error["type"] != "value_error"
    return f"{said}; found {error['input']!r}" if is_plain else said


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
