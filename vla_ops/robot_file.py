"""Read `robots/<name>/defs.yaml` without Dagster, with the file and line of every mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vla_ops.curation import Curation, load_curation
from vla_ops.errors import SpecError
from vla_ops.robot import RobotSpec
from vla_ops.yaml_file import Mistake, YamlFile

_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
COMPONENT_TYPE = "vla_ops.RobotPipeline"
_ENV = re.compile(r"\{\{\s*env(?:\.(?P<dot>\w+)|\(\s*['\"](?P<call>\w+)['\"]\s*(?:,\s*['\"](?P<default>[^'\"]*)['\"]\s*)?\))\s*\}\}")


@dataclass(frozen=True)
class Robot:
    """A robot's name (its folder's), its folder, its spec and what of its episodes is left out, cut or held out."""

    name: str
    folder: Path
    spec: RobotSpec
    curation: Curation = field(default_factory=Curation)

    @property
    def recordings_uri(self) -> str:
        """The recordings root: a URI as written, or a path made absolute against the robot's folder."""
        uri = self.spec.recordings.uri
        return uri if "://" in uri else str((self.folder / Path(uri).expanduser()).resolve())


def load_robot(folder: str | Path) -> Robot:
    """Load the robot in `folder`, with its curation.yaml where there is one.

    Raise SpecError with file:line and the nearest valid key or value.
    """
    folder = Path(folder).resolve()
    path = folder / "defs.yaml"
    if not path.is_file():
        raise SpecError("no such robot", file=path, todo=f"Folders with a defs.yaml: {', '.join(_neighbours(folder)) or 'none'}")
    if not _NAME.match(folder.name):
        todo = "Rename the folder with letters, digits and underscores."
        raise SpecError("a robot is named after its folder, and Dagster cannot have this name", file=folder, found=folder.name, todo=todo)
    file = YamlFile.read(path, "the robot's YAML")
    if mistakes := [*file.doubled(), *_not_a_robot(file.document)]:
        raise file.mistaken(mistakes)
    try:
        spec = RobotSpec.model_validate(resolve_env(file.document["attributes"]))
    except ValidationError as error:
        raise file.refused(error, below=("attributes",)) from error
    except KeyError as error:
        raise SpecError(f"environment variable {error.args[0]} is not set", file=path, todo=f"Run: export {error.args[0]}=...") from error
    return Robot(folder.name, folder, spec, load_curation(folder))


def _not_a_robot(document: Any) -> Iterator[Mistake]:
    if not isinstance(document, dict):
        yield Mistake(1, f"empty; a robot's YAML has `type: {COMPONENT_TYPE}` and `attributes:`")
    elif document.get("type") != COMPONENT_TYPE:
        yield Mistake(1, f"type: found {document.get('type')!r}, expected {COMPONENT_TYPE}")
    elif not isinstance(document.get("attributes"), dict):
        yield Mistake(1, "attributes: there are none; they say what the robot is (see robots/aloha_sim/defs.yaml)")


def resolve_env(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Replace `{{ env.NAME }}` and `{{ env('NAME', 'default') }}` in every string. Raise KeyError(NAME) where it is not set."""
    if isinstance(value, str):
        return _ENV.sub(lambda m: environ[m["dot"] or m["call"]] if m["default"] is None else environ.get(m["call"], m["default"]), value)
    if isinstance(value, dict):
        return {k: resolve_env(v, environ) for k, v in value.items()}
    return [resolve_env(v, environ) for v in value] if isinstance(value, list) else value


def _neighbours(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.parent.glob("*/defs.yaml"))
