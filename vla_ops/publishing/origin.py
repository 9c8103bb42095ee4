"""What a publication was made of, up to the hashes of the recordings: from what runs, exports and datasets say of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ops.datasets.lerobot_version import VERSION_FILE
from vla_ops.home import moved_here
from vla_ops.published.manifest import VERSIONS
from vla_ops.published.pull import split
from vla_ops.recordings.remote.errors import without_secrets


def origin_of_run(told: Mapping[str, Any]) -> dict[str, Any]:
    """The origin of a checkpoint with this run.json: its recipe, norm stats, dataset, code, and `recordings` (see below)."""
    recipe = told["recipe"]
    dataset = _dataset_of(told)
    data = {} if dataset is None else origin_of_dataset(dataset)
    return {
        "robot": recipe["robot"],
        "training": recipe["name"],
        "run": told["run"],
        "recipe": told["fingerprint"],
        "code_revision": told["code_revision"],
        "init": _init_of(told),
        "stats_fingerprint": {each["name"]: each["stats_fingerprint"] for each in recipe.get("sources", ())} or recipe["stats_fingerprint"],
        "transforms_fingerprint": told.get("transforms_fingerprint"),
        "dataset_version": recipe["dataset_version"],
        "episodes": data.get("episodes"),
        # None where the dataset was not on the machine that published.
        "recordings": data.get("recordings"),
    }


def _init_of(told: Mapping[str, Any]) -> str | None:
    """As the YAML has it; of a publication with the version that was loaded."""
    asked, loaded = str(told["recipe"]["training"].get("init") or ""), str(told.get("load_report", {}).get("source", ""))
    named, (publication, version) = without_secrets(split(asked)[0]), split(loaded)
    # Of a version's own folder the publication is loaded by its name, which is above it.
    is_version = version and publication in {named, named.rpartition(f"/{VERSIONS}/")[0]}
    return (loaded if asked and is_version else without_secrets(asked)) or None


def origin_of_dataset(told: Mapping[str, Any]) -> dict[str, Any]:
    """The origin of a dataset version with this meta/vla_ops.json. `recordings`: the content hash of each by its id."""
    # An episode is `<recording>/<k>` of version `<hash of the recording>-<fingerprint of what conversion reads of the YAML>-...`.
    recordings = {each["id"].rpartition("/")[0]: each["version"].split("-")[0] for each in told["episodes"]}
    return {
        "robot": told["robot"],
        "dataset_version": told["version"],
        "spec_fingerprint": told.get("spec_fingerprint"),
        "episodes": len(told["episodes"]),
        "recordings": recordings,
    }


def tasks_of_run(told: Mapping[str, Any]) -> list[str]:
    """The tasks in the dataset of a run, by first appearance; none where the dataset is not here."""
    dataset = _dataset_of(told)
    return [] if dataset is None else list(dict.fromkeys(each["task"] for each in dataset["episodes"]))


def _dataset_of(told: Mapping[str, Any]) -> dict[str, Any] | None:
    file = moved_here(Path(told["recipe"]["dataset"])) / VERSION_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
