"""Machines that share a home: each has a copy of a robot's folder, and writes into it what a robot's steps would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vla_ops.homes.needs import everything
from vla_ops.homes.robot_home import Done, RobotHome, Wanted
from vla_ops.publishing.stores.base import Store

ROBOT = "arm"


@dataclass
class Machine:
    """A machine with its copy."""

    store: Store
    folder: Path
    said: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The robot's folder."""
        return self.folder / ROBOT

    @property
    def home(self) -> RobotHome:
        """As a new process has it."""
        return RobotHome(self.store, self.root, say=self.said.append)

    def write(self, path: str, content: str = "") -> Path:
        """Write a file, its path where no content is given."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content or path)
        return file

    def convert(self, recording: str, content: str = "frames") -> None:
        """What a converted recording leaves."""
        for name in ("recording.json", "contact_sheet.jpg", "0/episode.json", "0/frames.parquet", "0/cam_high.mp4"):
            self.write(f"episodes/{recording}/{name}", f"{recording} {name} {content}")

    def train(self, run: str, step: int, content: str = "weights") -> None:
        """What a training leaves."""
        self.write(f"trainings/pi0/{run}/run.json", f"{run} {content}")
        for name in ("params/d/0", "train_state/d/0", "assets/norm_stats.json"):
            self.write(f"trainings/pi0/{run}/{step}/{name}", f"{run} {step} {name} {content}")

    def fetch(self, wanted: Wanted = everything, **more: list[str]) -> Done:
        """Fetch as a new process would."""
        return self.home.fetch(wanted, **more)

    def send(self, **more: list[str]) -> Done:
        """Send as a new process would."""
        return self.home.send(**more)

    @property
    def files(self) -> dict[str, str]:
        """What is here, but for what is the machine's own."""
        found = (path for path in self.root.rglob("*") if path.is_file() and ".home" not in path.parts and path.name != ".lock")
        return {path.relative_to(self.root).as_posix(): path.read_text() for path in found}


type Machines = Callable[[str], Machine]
