"""What is to be published: which files of a checkpoint, an export or a dataset, and what they were made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import (
    ASSETS,
    EXPORT_FILE,
    OURS,
    PARAMS,
    RUN_FILE,
    STEP_METADATA,
    TRAIN_STATE,
    Checkpoint,
    open_checkpoint,
    read_state,
)
from vla_ops.datasets.lerobot_version import VERSION_FILE
from vla_ops.errors import PublishError
from vla_ops.home import moved_here
from vla_ops.published.manifest import MANIFEST_FILE, Kind, Manifest
from vla_ops.published.pull import require_same
from vla_ops.publishing.origin import origin_of_dataset, origin_of_run, tasks_of_run
from vla_ops.publishing.secrets import require_no_secrets

# Orbax writes its own paths on this machine into them, and nobody reads them.
_LEFT_OUT = {"commit_success.txt"}


@dataclass(frozen=True)
class Package:
    """Files by the names that they are to have, and what the manifest tells of them."""

    kind: Kind
    # Below the store: `<robot>/<training>` and the like.
    name: str
    files: Mapping[str, Path]
    origin: Mapping[str, Any]
    measured: Mapping[str, Any]
    # Of a policy the tasks that it was trained on, where its dataset is here.
    tasks: Sequence[str] = ()


def package_at(folder: Path, *, name: str | None = None, to_resume: bool = False) -> Package:
    """The package of a checkpoint, an export, a dataset version or a published one in `folder`, by `name` or its robot's and training's.

    `to_resume` takes the train state of a checkpoint along. Raise PublishError for what is none of them, for a checkpoint of no run of
    this project, and for files that hold a secret of this environment.
    """
    if (folder / MANIFEST_FILE).is_file():
        package = _published(folder, name)
    elif (folder / EXPORT_FILE).is_file():
        package = _told(folder, name)
    elif (folder / VERSION_FILE).is_file():
        package = _dataset(folder, name)
    else:
        package = _checkpoint(open_checkpoint(folder), name, to_resume=to_resume)
    require_no_secrets(package.files)
    return package


def _published(folder: Path, name: str | None) -> Package:
    """What was published elsewhere: the same version, which says what it was made of as nobody here could."""
    manifest = Manifest.from_json((folder / MANIFEST_FILE).read_bytes(), file=str(folder / MANIFEST_FILE))
    require_same(manifest.files, folder)
    files = {file: folder / file for file in manifest.files}
    return Package(manifest.kind, name or manifest.name, files, manifest.origin, manifest.measured)


def _checkpoint(checkpoint: Checkpoint, name: str | None, *, to_resume: bool) -> Package:
    folder = checkpoint.folder
    run_file = next((file for file in (folder / RUN_FILE, folder.parent / RUN_FILE) if file.is_file()), None)
    if run_file is None:
        todo = "Publish one that `vla-ops train` made: of others nobody could say what they were made of."
        raise PublishError("the checkpoint is of no run of this project", file=folder, found=f"no {RUN_FILE} beside it", todo=todo)
    if not checkpoint.norm_stats:
        todo = "Without them nobody can say in which units its actions are: copy the run's assets into it."
        raise PublishError("the checkpoint has no norm stats", file=folder, todo=todo)
    if to_resume and not checkpoint.can_resume:
        todo = "Publish it without, or name a step that still has one."
        raise PublishError("the checkpoint has no train state to resume from", file=folder, todo=todo)
    told, parts = _read(run_file), {PARAMS, ASSETS, OURS, *([TRAIN_STATE] if to_resume else [])}
    files = {file: path for file, path in _files(folder) if file.split("/")[0] in parts or file == STEP_METADATA}
    origin = origin_of_run(told) | {"step": _step(folder)}
    name = name or f"{told['robot']}/{told['training']}"
    return Package("policy", name, files | {RUN_FILE: run_file}, origin, _metrics(folder), tasks_of_run(told))


def _told(folder: Path, name: str | None) -> Package:
    """An export or an RLDS view: what each was made of stands in a file of the same name."""
    told = _read(folder / EXPORT_FILE)
    if "checkpoint" in told:
        return _export(folder, told, name)
    if "records" in told:
        return _rlds(folder, told, name)
    found, todo = ", ".join(told), "Name the folder of a checkpoint, an export or a dataset version of this project."
    raise PublishError("this is neither an export nor an RLDS view", file=folder / EXPORT_FILE, found=found, todo=todo)


def _export(folder: Path, told: Mapping[str, Any], name: str | None) -> Package:
    checkpoint = moved_here(Path(told["checkpoint"]))
    if not (run_file := checkpoint.parent / RUN_FILE).is_file():
        todo = "Publish one whose checkpoint is on this machine: of others nobody could say what they were made of."
        raise PublishError("the export's checkpoint is of no run that is here", file=run_file, todo=todo)
    run = _read(run_file)
    origin = origin_of_run(run) | {"step": _step(checkpoint), "layout": told["layout"], "precision": told["precision"]}
    # Of a mixture each source has a policy of its own.
    source = f"_{told['asset_id']}" if run["recipe"].get("sources") else ""
    name = name or f"{run['robot']}/{run['training']}_torch_{told['layout']}{source}"
    return Package("torch_policy", name, dict(_files(folder)), origin, _metrics(checkpoint), tasks_of_run(run))


def _dataset(folder: Path, name: str | None) -> Package:
    told = _read(folder / VERSION_FILE)
    info = _read(folder / "meta/info.json")
    measured = {key: info[key] for key in ("total_episodes", "total_frames", "fps")}
    return Package("dataset", name or f"{told['robot']}/{folder.parent.name}", dict(_files(folder)), origin_of_dataset(told), measured)


def _rlds(folder: Path, told: Mapping[str, Any], name: str | None) -> Package:
    episodes = [{"id": id_, "version": version} for shard in told["files"] for id_, version, _ in shard["episodes"]]
    origin = origin_of_dataset({**told, "episodes": episodes}) | {"settings": told["settings"]}
    return Package("dataset", name or f"{told['robot']}/rlds", dict(_files(folder)), origin, {"total_episodes": len(episodes)})


def _step(checkpoint: Path) -> int | None:
    return int(checkpoint.name) if checkpoint.name.isdecimal() else None


def _metrics(checkpoint: Path) -> dict[str, Any]:
    return dict(read_state(checkpoint).get("metrics", {}))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name not in _LEFT_OUT and file.name != MANIFEST_FILE:
            yield file.relative_to(folder).as_posix(), file


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishError("it cannot be read, so nothing says what this is", file=file, found=str(error), todo="Make it again.") from error
