"""Read `robots/<name>/defs.yaml` without Dagster: the part that is the same for a robot and a mixture of robots."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vla_ops.errors import SpecError
from vla_ops.yaml_file import Mistake, YamlFile

DEFS = "defs.yaml"
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_ENV = re.compile(r"\{\{\s*env(?:\.(?P<dot>\w+)|\(\s*['\"](?P<call>\w+)['\"]\s*(?:,\s*['\"](?P<default>[^'\"]*)['\"]\s*)?\))\s*\}\}")
# Before any other key stands at the left margin: comments and document marks do not count.
_TYPE = re.compile(r"^type:\s*['\"]?([\w.]+)", re.MULTILINE)


def component_of(folder: Path) -> str | None:
    """The component type that the folder's defs.yaml names, without parsing it; None where there is no such file or line."""
    try:
        found = _TYPE.search((folder / DEFS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    return found[1] if found else None


def read_defs[Spec: BaseModel](folder: Path, model: type[Spec], *, component: str, what: str, example: str) -> tuple[YamlFile, Spec]:
    """Read defs.yaml in `folder`, of component type `component`, and its attributes as `model`; `what` it is stands in messages.

    Raise SpecError with file:line and the nearest valid key or value.
    """
    path = folder / DEFS
    if not path.is_file():
        near = difflib.get_close_matches(folder.name, _neighbours(folder), n=1, cutoff=0.4)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise SpecError(f"no such {what}", file=path, todo=f"{meant}Folders with a defs.yaml: {', '.join(_neighbours(folder)) or 'none'}")
    if not _NAME.match(folder.name):
        todo = "Rename the folder with letters, digits and underscores."
        raise SpecError(f"a {what} is named after its folder, and Dagster cannot have this name", file=folder, found=folder.name, todo=todo)
    file = YamlFile.read(path, f"the {what}'s YAML")
    if mistakes := [*file.doubled(), *_not_one(file.document, component, what, example)]:
        raise file.mistaken(mistakes)
    try:
        return file, model.model_validate(resolve_env(file.document["attributes"]))
    except ValidationError as error:
        raise file.refused(error, below=("attributes",)) from error
    except KeyError as error:
        raise SpecError(f"environment variable {error.args[0]} is not set", file=path, todo=f"Run: export {error.args[0]}=...") from error


def _not_one(document: Any, component: str, what: str, example: str) -> Iterator[Mistake]:
    if not isinstance(document, dict):
        yield Mistake(1, f"empty; a {what}'s YAML has `type: {component}` and `attributes:`")
    elif document.get("type") != component:
        yield Mistake(1, f"type: found {document.get('type')!r}, expected {component}")
    elif not isinstance(document.get("attributes"), dict):
        yield Mistake(1, f"attributes: there are none; they say what the {what} is (see {example})")


def resolve_env(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Replace `{{ env.NAME }}` and `{{ env('NAME', 'default') }}` in every string. Raise KeyError(NAME) where it is not set."""
    if isinstance(value, str):
        return _ENV.sub(lambda m: environ[m["dot"] or m["call"]] if m["default"] is None else environ.get(m["call"], m["default"]), value)
    if isinstance(value, dict):
        return {k: resolve_env(v, environ) for k, v in value.items()}
    return [resolve_env(v, environ) for v in value] if isinstance(value, list) else value


def nearest(name: str, known: list[str]) -> str:
    """What a message says of a name that is not among `known`."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"


def _neighbours(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.parent.glob(f"*/{DEFS}"))
