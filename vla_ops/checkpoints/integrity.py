"""Checksums of a checkpoint's files, and which arrays a damaged file held.

Orbax's own format notices a broken index, but not a changed byte within an array: numbers of a trained model hardly compress and are
stored as they are. So every file has its size and CRC32C in `<step>/vla_ops/files.json`, or, for what was fetched, in `download.json`
beside it. A checkpoint that somebody else wrote to this disk has neither and is only read.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import FILES_FILE, OURS, STEP_METADATA, TREE_METADATA, Checkpoint
from vla_ops.errors import CheckpointError
from vla_ops.fetching.checksum import checksum
from vla_ops.fetching.download import CONTENT, DOWNLOAD_FILE

# Written, or written to, after the checksums.
_LATER = {STEP_METADATA, "commit_success.txt"}


def write_checksums(step: Path) -> None:
    """Write the checksums of all files of an unfinished checkpoint into it, and flush all of them to disk."""
    sums = {name: {"bytes": (step / name).stat().st_size, "crc32c": checksum(step / name, flush=True)} for name in _files(step)}
    target = step / OURS / FILES_FILE
    target.parent.mkdir(exist_ok=True)
    with open(target, "w", encoding="utf-8") as handle:
        json.dump(sums, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())


def verify(checkpoint: Checkpoint, item: Path) -> None:
    """Compare the files of one item (params or train_state) with their checksums, where there are any.

    Raise CheckpointError naming the checkpoint, the files, and the arrays that were in them.
    """
    bad = list(_damaged(checkpoint, item))
    if not bad:
        return
    files = "; ".join(f"{name}: {why}" for name, why in bad[:4]) + (f"; {len(bad) - 4} more" if len(bad) > 4 else "")
    arrays = arrays_in(item, {checkpoint.folder / name for name, _ in bad})
    raise damaged(checkpoint, arrays, files)


def damaged(checkpoint: Checkpoint, arrays: list[str], why: str) -> CheckpointError:
    """The error for arrays that cannot be read."""
    shown = ", ".join(arrays[:4]) + (f" and {len(arrays) - 4} more" if len(arrays) > 4 else "")
    return CheckpointError(
        "the checkpoint is damaged",
        file=checkpoint,
        array=shown or None,
        found=why,
        todo="Take an earlier step of the run, or delete this folder and fetch or copy it again.",
    )


def arrays_in(item: Path, files: set[Path]) -> list[str]:
    """The arrays of an item, with their shapes, that cannot be read without these files. Reads everything: for when something is wrong."""
    with tempfile.TemporaryDirectory() as made:
        rest = Path(made)
        for file in (file for file in item.rglob("*") if file.is_file() and file not in files):
            link = rest / file.relative_to(item)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        return [f"{path} {shape}" for path, shape in _unreadable(rest, item)]


def _damaged(checkpoint: Checkpoint, item: Path) -> Iterator[tuple[str, str]]:
    within = item.relative_to(checkpoint.folder).as_posix()
    for name, expected in _known(checkpoint).items():
        file = checkpoint.folder / name
        if within != "." and not name.startswith(f"{within}/"):
            continue
        if not file.is_file():
            yield name, "is missing"
        elif file.stat().st_size != expected["bytes"]:
            yield name, f"has {file.stat().st_size} bytes instead of {expected['bytes']}"
        elif checksum(file) != expected["crc32c"]:
            yield name, "has other bytes than were written"


def _known(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Size and checksum of each file, by its name relative to the checkpoint's folder."""
    own = checkpoint.folder / OURS / FILES_FILE
    if own.is_file():
        return _read(own)
    for folder in (checkpoint.folder, *checkpoint.folder.parents[:3]):
        fetched = folder.parent / DOWNLOAD_FILE
        if folder.name == CONTENT and fetched.is_file():
            start = checkpoint.folder.relative_to(folder).as_posix()
            prefix = "" if start == "." else f"{start}/"
            return {name.removeprefix(prefix): entry for name, entry in _read(fetched)["files"].items() if name.startswith(prefix)}
    return {}


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError("the list of checksums is damaged", file=file, todo="Copy or fetch the checkpoint again.") from error


def _files(step: Path) -> list[str]:
    return sorted(file.relative_to(step).as_posix() for file in step.rglob("*") if file.is_file() and file.name not in _LATER)


def _unreadable(rest: Path, item: Path) -> Iterator[tuple[str, str]]:
    metadata = json.loads((item / TREE_METADATA).read_text(encoding="utf-8"))
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    for entry in metadata["tree_metadata"].values():
        if entry["value_metadata"].get("skip_deserialize"):
            continue
        keys = [str(key["key"]) for key in entry["key_metadata"]]
        try:
            _open(rest, keys, driver).read().result()
        except ValueError:
            yield "/".join(keys), _shape(item, keys, driver)


def _shape(item: Path, keys: list[str], driver: str) -> str:
    try:
        return str(_open(item, keys, driver).shape)
    except ValueError:
        return "of unknown shape"


def _open(folder: Path, keys: list[str], driver: str) -> Any:
    import tensorstore as ts

    kvstore = {"driver": "ocdbt", "base": f"file://{folder}", "path": f"{'.'.join(keys)}/"}
    return ts.open({"driver": driver, "kvstore": kvstore, "fill_missing_data_reads": False}, open=True).result()
