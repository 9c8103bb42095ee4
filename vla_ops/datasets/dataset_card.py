"""README.md of a LeRobot dataset, with the metadata block the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_LISTED_TASKS = 50


def dataset_card(
    info: Mapping[str, Any],
    tasks: Sequence[str],
    *,
    robot: str,
    licence: str,
    repo_id: str | None = None,
    tasks_file: str = "meta/tasks.parquet",
    held_out: Sequence[int] = (),
    of: str = "of the robot",
    about: Sequence[str] = (),
) -> str:
    """Return the card of a dataset with this info.json; with `repo_id` it shows how to load it from the Hub, else from its folder.

    `tasks_file` holds the tasks that the card leaves out, and `held_out` are the indices of its episodes for validation. `of` says what
    `robot` is, and `about` are more lines, before the features.
    """
    hours = info["total_frames"] / info["fps"] / 3600
    listed = [f"- {task_text(task)}" for task in tasks[:_LISTED_TASKS]]
    if len(tasks) > _LISTED_TASKS:
        listed.append(f"- and {len(tasks) - _LISTED_TASKS} more, in `{tasks_file}`")
    return "\n".join(
        [
            *_front_matter(robot, licence),
            f"# {repo_id or robot}",
            "",
            f"{info['total_episodes']} episodes ({hours:.2f} h, {info['total_frames']} frames at {info['fps']} Hz) {of} `{robot}` "
            f"in LeRobot {info['codebase_version']} format.",
            "",
            "## Load it",
            "",
            *loading(robot, repo_id),
            "",
            *_validation(info["total_episodes"], held_out),
            *about,
            "## Features",
            "",
            "| feature | dtype | shape | names or video |",
            "|---|---|---|---|",
            *[_feature_row(name, feature) for name, feature in info["features"].items()],
            "",
            f"## Tasks ({len(tasks)})",
            "",
            *listed,
            "",
        ]
    )


def _front_matter(robot: str, licence: str) -> list[str]:
    tags = ["LeRobot", "robotics", robot]
    return [
        "---",
        f"license: {json.dumps(licence.lower())}",
        "task_categories: [robotics]",
        f"tags: {json.dumps(tags)}",
        "configs:",
        "  - config_name: default",
        "    data_files: data/*/*.parquet",
        "---",
        "",
    ]


def loading(robot: str, repo_id: str | None = None, *, revision: str | None = None) -> list[str]:
    """The lines that show how to load it: from the Hub with `repo_id`, and there that `revision`; else from its folder."""
    named = "" if revision is None else f', revision="{revision}"'
    made = f'LeRobotDataset("{repo_id}"{named})' if repo_id else f'LeRobotDataset("local/{robot}", root="path/to/this/folder")'
    return [
        "```python",
        "from lerobot.datasets.lerobot_dataset import LeRobotDataset",
        f"dataset = {made}",
        'print(len(dataset), dataset[0]["task"])',
        "```",
    ]


def _validation(episodes: int, held_out: Sequence[int]) -> list[str]:
    if not held_out:
        return []
    return [
        "## Validation",
        "",
        f"{len(held_out)} of the {episodes} episodes are held out for validation and are in none of the statistics. LeRobot reads every "
        "episode unless it is told which; `held_out` in `meta/vla_ops.json` lists them by index:",
        "",
        "```python",
        'held_out = json.loads((root / "meta/vla_ops.json").read_text())["held_out"]',
        f"training = [k for k in range({episodes}) if k not in held_out]  # LeRobotDataset(..., episodes=training)",
        "```",
        "",
    ]


def _feature_row(name: str, feature: Mapping[str, Any]) -> str:
    if feature["dtype"] == "video":
        said = f"{feature['info']['video.codec']}, {feature['info']['video.pix_fmt']}"
    else:
        said = ", ".join(feature["names"] or [])
    return f"| `{name}` | {feature['dtype']} | {feature['shape']} | {said} |"


def task_text(task: str) -> str:
    """One line of Markdown that says the task and nothing else, whatever the recording wrote there."""
    return "`" + " ".join(task.replace("`", "'").split()) + "`"
