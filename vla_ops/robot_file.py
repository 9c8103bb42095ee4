"""Read `robots/<name>/defs.yaml` of a robot without Dagster, with the file and line of every mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vla_ops.curation import Curation, load_curation
from vla_ops.defs_file import read_defs, resolve_env
from vla_ops.robot import RobotSpec

__all__ = ["COMPONENT_TYPE", "Robot", "load_robot", "resolve_env"]

COMPONENT_TYPE = "vla_ops.RobotPipeline"


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
    _, spec = read_defs(folder, RobotSpec, component=COMPONENT_TYPE, what="robot", example="robots/aloha_sim/defs.yaml")
    return Robot(folder.name, folder, spec, load_curation(folder))
