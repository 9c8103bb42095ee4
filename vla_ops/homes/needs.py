"""Which files of a robot a step reads: what of its home in a store has to be on the machine that takes it."""

from __future__ import annotations

from pathlib import PurePosixPath

from vla_ops.homes.robot_home import Wanted
from vla_ops.homes.state import TRAININGS
from vla_ops.mixture_file import Mixture
from vla_ops.robot_file import Robot

_EXPORTS, _EPISODES, _TRAIN_STATE = "exports", "episodes", "train_state"
# Of episodes what says of which recording and YAML they are, and the numbers that a YAML is held against.
_SAID_OF_EPISODES = ("recording.json", "episode.json", "frames.parquet")
# Made of the dataset, for other readers.
_VIEWS = {"lerobot_v21", "rlds"}


def everything(path: str) -> bool:
    """All there is."""
    return bool(path)


def data(path: str) -> bool:
    """What converting reads, and what datasets and norm stats are made of: all but runs and exports."""
    return path.split("/", maxsplit=1)[0] not in {TRAININGS, _EXPORTS}


def dataset(path: str) -> bool:
    """What is trained on: the dataset and the norm stats, and of the episodes what they are of."""
    first = path.split("/", maxsplit=1)[0]
    return data(path) and first not in _VIEWS and (first != _EPISODES or path.endswith(_SAID_OF_EPISODES))


def training(name: str, *, to_resume: bool) -> Wanted:
    """What a training goes on from, or what is made of it: with the dataset its runs and exports, and what only resuming needs or not."""

    def wanted(path: str) -> bool:
        if path.split("/")[:2] in ([TRAININGS, name], [_EXPORTS, name]):
            return to_resume or _TRAIN_STATE not in PurePosixPath(path).parts[4:5]
        return dataset(path)

    return wanted


def said(path: str) -> bool:
    """What everything says of itself, and what a dataset is judged by: no images and no parameters."""
    first = path.split("/", maxsplit=1)[0]
    return path.endswith((".json", ".jsonl")) or first == "semantics" or (first == _EPISODES and path.endswith(_SAID_OF_EPISODES))


def run_of(name: str) -> Wanted:
    """The checkpoints and exports of a training, to be run: without what only resuming needs."""
    wanted = training(name, to_resume=False)
    return lambda path: not dataset(path) and wanted(path)


def episode(asked: str) -> Wanted:
    """The recording of the episode `RECORDING/K`, or of `RECORDING`; of the others that they are there."""
    recording, _, last = asked.rpartition("/")
    below = tuple(f"{_EPISODES}/{each}/" for each in {asked, recording if last.isdecimal() else asked})
    return lambda path: path.startswith(below) or (path.startswith(f"{_EPISODES}/") and path.endswith(_SAID_OF_EPISODES))


def needs_of(robot: Robot | Mixture, wanted: Wanted, *, of_sources: Wanted = dataset) -> dict[str, Wanted]:
    """What of a robot is needed, and of a mixture besides of the robots it is made of."""
    sources = {source.robot.name: of_sources for source in robot.sources} if isinstance(robot, Mixture) else {}
    return sources | {robot.name: wanted}


def named_run(uri: str) -> tuple[str, str] | None:
    """Robot and training of `ROBOT/TRAINING[/RUN][@STEP]`; None for what cannot be that."""
    parts = uri.partition("@")[0].split("/")
    if ":" in uri or len(parts) not in (2, 3) or any(part in ("", ".", "..", "~") for part in parts):
        return None
    return parts[0], parts[1]
