"""README.md of a repository: what was published, what it was made of, its numbers and what they do not say, and how to load it.

Ours stands between two marks, and its metadata are merged into those that are there: what people write around it on the Hub stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from vla_ops.checkpoints.layout import EXPORT_FILE, RUN_FILE
from vla_ops.datasets.dataset_card import loading, task_text
from vla_ops.errors import PublishError
from vla_ops.published.hub_address import TAG, HubAddress, tag_of
from vla_ops.published.manifest import MANIFEST_FILE, Manifest
from vla_ops.publishing.hub.pictures import PICTURES
from vla_ops.publishing.package import Package
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.training.recipe import Recipe

CARD_FILE = "README.md"
BEGIN, END = "<!-- vla-ops: what is between these two marks is written anew by every publication -->", "<!-- vla-ops: end -->"
_CAVEAT = (
    "They compare predicted actions with those recorded in held-out episodes. They do not say how often the policy does its task: a policy "
    "with small errors may fail on the robot, where its own actions decide what it sees next."
)
_CLASSES = {"pi0": ("pi0", "PI0Policy"), "pi05": ("pi05", "PI05Policy")}
_LISTED_TASKS = 20
_RLDS_FILE = "/dataset_info.json"


@dataclass(frozen=True)
class Told:
    """What a card is made of. `own` is the card that a dataset has already, `pictures` are names in the repository."""

    package: Package
    manifest: Manifest
    address: HubAddress
    licence: str | None
    own: str | None = None
    pictures: Sequence[str] = ()


def card_of(told: Told, before: str | None = None) -> str:
    """The card, with what people wrote into the one that is there."""
    kept, around = _split(before or "")
    own, body = _split(told.own or "")
    is_dataset = told.manifest.kind == "dataset"
    data = _merged(kept, _merged(own, {"tags": [TAG]}) if is_dataset else _metadata(told))
    lines = _dataset(told, body) if is_dataset else _policy(told)
    ours = "\n".join([BEGIN, *lines, END])
    if BEGIN in around and END in around:
        lead, tail = around.split(BEGIN, 1)[0], around.split(END, 1)[1]
        text = f"{lead}{ours}{tail}"
    else:
        text = "\n\n".join(part for part in (around.strip(), ours) if part) + "\n"
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n\n{text.lstrip()}"


def pictures_in(card: str) -> set[str]:
    """The pictures that our part of a card shows, by their names in the repository."""
    ours = card.partition(BEGIN)[2].partition(END)[0]
    return set(re.findall(rf"\]\(({PICTURES}/[^)]+)\)", ours))


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text. Raise PublishError for metadata that are no YAML."""
    card = card.replace("\r\n", "\n")
    if not card.startswith("---\n") or "\n---\n" not in card[3:]:
        return {}, card
    data, _, text = card[4:].partition("\n---\n")
    try:
        found = yaml.safe_load(data)
    except yaml.YAMLError as error:
        todo = "Correct the metadata at the top of README.md in the repository."
        raise PublishError(
            "the card that is there cannot be read", file=CARD_FILE, found=" ".join(str(error).split()), todo=todo
        ) from error
    return (found if isinstance(found, dict) else {}), text


def _merged(before: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Ours over those before; of tags all."""
    had = before.get("tags") or []
    had = [had] if isinstance(had, str) else had
    return {**before, **ours, "tags": list(dict.fromkeys([*had, *ours["tags"]]))}


def _metadata(told: Told) -> dict[str, Any]:
    spec, origin = _recipe(told.package).spec, told.manifest.origin
    layout = origin.get("layout", "openpi")
    data: dict[str, Any] = {} if told.licence is None else {"license": told.licence}
    data |= {"library_name": layout, "pipeline_tag": "robotics"}
    published = spec.dataset.publish if isinstance(spec, RobotSpec) else None
    if published is not None and published.hub is not None:
        data["datasets"] = [published.hub]
    return data | {"tags": ["robotics", TAG, layout, _family(told), origin["robot"]]}


def _policy(told: Told) -> Iterator[str]:
    origin = told.manifest.origin
    yield from (f"# {told.address.repo_id}", "")
    yield f"A `{_family(told)}` policy for the robot `{origin['robot']}`, from its training `{origin['training']}`."
    yield from ("", "## Load it", "", *_serving(told), "")
    yield from _loading(told)
    yield from ("## What it sees and does", "", *_table(_about(told)), "")
    yield from _tasks(told)
    yield from ("## Numbers", "", *_numbers(told), "")
    yield from _lineage(told)


def _dataset(told: Told, body: str) -> Iterator[str]:
    local = "\n".join(loading(str(told.manifest.origin["robot"])))
    ours = "\n".join(loading("", told.address.repo_id, revision=tag_of(told.manifest.version)))
    yield body.replace(local, ours).strip() or f"# {told.address.repo_id}"
    yield ""
    if (folder := next((name.removesuffix(_RLDS_FILE) for name in told.package.files if name.endswith(_RLDS_FILE)), None)) is not None:
        yield from ("## Load it", "", *_loading_rlds(told, folder), "")
    if told.pictures:
        yield from ("## Cameras", "")
        yield "| " + " | ".join(f"`{name.rpartition('/')[2].removesuffix('.jpg')}`" for name in told.pictures) + " |"
        yield "|" + "---|" * len(told.pictures)
        yield "| " + " | ".join(f"![{name}]({name})" for name in told.pictures) + " |"
        yield ""
    yield from _lineage(told)


def _loading_rlds(told: Told, folder: str) -> list[str]:
    revision = tag_of(told.manifest.version)
    folder = f'snapshot_download("{told.address.repo_id}", repo_type="dataset", revision="{revision}") + "/{folder}"'
    lines = ["import tensorflow_datasets as tfds", "from huggingface_hub import snapshot_download"]
    return ["```python", *lines, f"dataset = tfds.builder_from_directory({folder}).as_dataset()", "```"]


def _serving(told: Told) -> list[str]:
    return ["```", f"vla-ops serve {told.address.uri}@{told.manifest.version}", "```"]


def _loading(told: Told) -> Iterator[str]:
    """In three lines of Python, by the library whose layout it has."""
    revision = tag_of(told.manifest.version)
    layout, family = told.manifest.origin.get("layout", "openpi"), _family(told)
    if layout == "lerobot" and not _is_of_lerobots_sizes(told.package):
        yield from ("LeRobot by itself has no model of these sizes, which are for trying things out.", "")
        return
    if layout == "lerobot" and family in _CLASSES:
        module, name = _CLASSES[family]
        lines = [
            f"from lerobot.policies.{module}.modeling_{module} import {name}",
            f'policy = {name}.from_pretrained("{told.address.repo_id}", revision="{revision}")',
        ]
    else:
        lines = [
            "from huggingface_hub import snapshot_download",
            "from openpi.policies import policy_config",
            f"policy = policy_config.create_trained_policy(config, "
            f'snapshot_download("{told.address.repo_id}", revision="{revision}"))  # config: your openpi TrainConfig',
        ]
    yield from ("By itself, in Python:", "", "```python", *lines, "```", "")


def _is_of_lerobots_sizes(package: Package) -> bool:
    """Whether plain LeRobot has a name for the model's sizes; ours writes them in the name's place where it has not."""
    return "{" not in json.loads(package.files["config.json"].read_text(encoding="utf-8")).get("paligemma_variant", "")


def _about(told: Told) -> Iterator[tuple[str, str]]:
    recipe = _recipe(told.package)
    spec, stats = recipe.spec, recipe.spec.norm_stats
    yield "state", _dimensions(spec.state_dims)
    yield "action", _dimensions(spec.action_dims)
    yield "a call answers", f"{stats.action_horizon} actions, absolute and in robot units"
    if deltas := [dim.name for dim, is_delta in zip(spec.action_dims, spec.delta_mask, strict=True) if is_delta]:
        yield "learned as deltas to the state", ", ".join(deltas)
    yield "cameras", ", ".join(f"{name} ({slot})" for slot, name in spec.camera_slots.items())
    if recipe.sources:
        yield "mixture of", ", ".join(each.name for each in recipe.sources)


def _dimensions(dims: Sequence[Dimension]) -> str:
    return f"{len(dims)}: {', '.join(f'{dim.name} ({dim.unit})' for dim in dims)}"


def _tasks(told: Told) -> Iterator[str]:
    tasks = told.package.tasks
    if tasks:
        more = [f"- and {len(tasks) - _LISTED_TASKS} more"] if len(tasks) > _LISTED_TASKS else []
        yield from (f"## Tasks ({len(tasks)})", "", *(f"- {task_text(task)}" for task in tasks[:_LISTED_TASKS]), *more, "")


def _numbers(told: Told) -> Iterator[str]:
    if not told.manifest.measured:
        yield "None was measured: the training had no validation."
        return
    units = {dim.name: dim.unit for dim in _recipe(told.package).spec.action_dims}
    rows = [(name, f"{value:.4g} {units.get(name.rpartition('/')[2], '')}".strip()) for name, value in told.manifest.measured.items()]
    yield from (*_table(rows, head=("measured", "value")), "", _CAVEAT)


def _lineage(told: Told) -> Iterator[str]:
    manifest = told.manifest
    origin = {key: value for key, value in manifest.origin.items() if key != "recordings" and value is not None}
    recordings = manifest.origin.get("recordings")
    rows = [("version", manifest.version), ("published", manifest.created), *((key, _shown(value)) for key, value in origin.items())]
    if recordings is not None:
        rows.append(("recordings", f"{len(recordings)}, each with its hash in `{MANIFEST_FILE}`"))
    yield from ("## What it was made of", "", *_table(rows), "")
    yield f"`{MANIFEST_FILE}` has the size and SHA-256 of every file. `vla-ops lineage {told.address.uri}` prints all of it."


def _table(rows: Any, head: tuple[str, str] = ("", "")) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in rows)


def _shown(value: Any) -> str:
    return ", ".join(f"{key}: {each}" for key, each in value.items()) if isinstance(value, Mapping) else str(value)


def _family(told: Told) -> str:
    return _read(told.package)["model"]["family"]


def _recipe(package: Package) -> Recipe:
    return Recipe.from_json(_read(package)["recipe"])


def _read(package: Package) -> dict[str, Any]:
    """What a policy says it was made by: the run of a checkpoint, or what an export has of it."""
    file = package.files.get(RUN_FILE) or package.files[EXPORT_FILE]
    return json.loads(file.read_text(encoding="utf-8"))
