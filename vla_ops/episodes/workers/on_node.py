"""What a task does on the node of a cluster: look whether it can do the work here, convert, hand over."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.worker import Report, convert_job
from vla_ops.episodes.workers.same_code import differences, made_with
from vla_ops.episodes.workers.staging import Staging
from vla_ops.errors import StoreError
from vla_ops.files import scratch


def convert_on_node(job: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Convert the recording of `job` and say what became of it: `done`, `lost`, `store_error`, or `refused` where no recording can be.

    `job` is that of a local worker with `made_with`, the driver's versions, and either `mark`, a file that is in its store, or
    `staging` and `name`, where to upload to.
    """
    node = socket.gethostname()
    if refusal := _refusal(job, node):
        return {"event": "refused", **refusal}
    file = job["file"]
    if "://" not in file["uri"] and not Path(file["uri"]).exists():
        said = f"node {node} does not see {file['uri']}. Mount the recordings there, or put them on an object store."
        return {"event": "lost", "said": said}
    try:
        with scratch(_scratch_folder()) as folder:
            if job["staging"] is None:
                return _done(convert_job(job, report, cache=folder / "cache"))
            return _converted_and_uploaded(job, report, folder, node)
    except StoreError as error:
        return {"event": "store_error", "said": f"on node {node}: {error}"}


def _refusal(job: Mapping[str, Any], node: str) -> dict[str, str] | None:
    if differ := differences(made_with(), job["made_with"]):
        what = f"node {node} would make other bytes than this machine"
        return {"what": what, "found": "; ".join(differ), "todo": "Install there exactly what is installed here."}
    if job["mark"] is not None and not Path(job["mark"]).exists():
        todo = "Mount it there at the same path, or write `store: s3://bucket/prefix` (or another URI) below conversion.ray in the YAML."
        return {"what": f"node {node} does not see the store", "found": f"no {Path(job['mark']).parent} that is the same", "todo": todo}
    return None


def _converted_and_uploaded(job: Mapping[str, Any], report: Report, folder: Path, node: str) -> dict[str, Any]:
    store = RobotStore(folder / "store")
    try:
        result = convert_job({**job, "store": str(store.root)}, report, cache=folder / "cache")
    except StoreError as error:  # This node's disk, not the store.
        return {"event": "lost", "said": f"node {node} has no room for it: {error}"}
    if result.quarantined is None:
        staging = Staging(job["staging"])
        try:
            staging.upload(store.recording_folder(result.recording), job["name"])
        except Exception as error:  # Every file system has errors of its own.
            return {"event": "lost", "said": f"node {node} could not upload to {staging.uri}: {type(error).__name__}: {error}"}
    return _done(result)


def _done(result: Conversion) -> dict[str, Any]:
    return {"event": "done", "conversion": asdict(result)}


def _scratch_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"vla_ops-{os.getuid()}"
