"""A run's folder, `<home>/<robot>/trainings/<training>/<run>/`: run.json says what is trained on what, result.json how it ended."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import RUN_FILE, latest_step
from vla_ops.errors import SpecError, TrainingError
from vla_ops.files import write_json
from vla_ops.policies.sources import trained_fingerprint
from vla_ops.training.recipe import Recipe

RESULT_FILE = "result.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """A run: its folder and its recipe, and what its first start found out."""

    folder: Path
    recipe: Recipe
    # Of the code that it was started with.
    revision: str
    created: str
    # Filled in when parameters have been loaded: the transforms' fingerprint and description, and the report of what was loaded.
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """VLA_OPS_HOME, as the folder says."""
        return self.folder.parents[3]

    @property
    def title(self) -> str:
        """ROBOT/TRAINING/RUN."""
        return f"{self.recipe.robot}/{self.recipe.name}/{self.folder.name}"

    @property
    def file(self) -> Path:
        """Its run.json."""
        return self.folder / RUN_FILE

    @property
    def result(self) -> dict[str, Any] | None:
        """How it ended: {how, step, metrics}; None while it has not."""
        try:
            return json.loads((self.folder / RESULT_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    @property
    def is_finished(self) -> bool:
        """Whether all steps of its recipe are taken, or it stopped early by itself."""
        result = self.result
        if result is None:
            return False
        validation = self.recipe.training.validation
        early = result["how"] == "stopped early" and validation is not None and validation.early_stop is not None
        return early or (result["how"] != "stopped by a signal" and result["step"] >= self.recipe.training.steps - 1)

    def trained_transforms(self, asset_id: str) -> str | None:
        """Fingerprint of the transforms that one of the recipe's parts was trained with; None before the run's first start."""
        return trained_fingerprint(self.found, asset_id if self.recipe.sources else None)

    def write(self) -> None:
        """Write run.json."""
        recipe = self.recipe
        told = {
            "run": self.folder.name,
            "robot": recipe.robot,
            "training": recipe.name,
            "created": self.created,
            "code_revision": self.revision,
            "fingerprint": recipe.fingerprint,
            "dataset_version": recipe.dataset_version,
            "stats_fingerprint": recipe.stats_fingerprint,
            "overrides": dict(recipe.overrides),
            "model": asdict(recipe.model),
            **self.found,
            "recipe": recipe.to_json(),
        }
        write_json(self.file, told)

    def write_result(self, how: str, step: int, **more: Any) -> None:
        """Write result.json."""
        write_json(self.folder / RESULT_FILE, {"how": how, "step": step, **more})


def trainings_folder(home: Path, robot: str, training: str) -> Path:
    """Where the runs of a training are."""
    return home / robot / "trainings" / training


def run_folder(recipe: Recipe, home: Path, *, name: str | None = None) -> Path:
    """The folder of the run of that name; without a name of a new one, named by the time. Raise SpecError for a name that cannot be one."""
    name = name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if not _NAME.fullmatch(name):
        raise SpecError("a run cannot have this name", found=name, expected="letters, digits, '.', '_', '-'")
    return trainings_folder(home.absolute(), recipe.robot, recipe.name) / name


def open_run(recipe: Recipe, home: Path, *, name: str | None = None) -> Run:
    """The run of that name, or a new one; without a name a new one, named by the time. Its run.json is there afterwards.

    What of the recipe may change between start and resume is taken from `recipe`. Raise TrainingError, naming what differs, for a run
    of another recipe.
    """
    folder = run_folder(recipe, home, name=name)
    if not (folder / RUN_FILE).is_file():
        run = Run(folder, recipe, code_revision(), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        run.write()
        return run
    there = read_run(folder / RUN_FILE)
    if wrong := there.recipe.differences(recipe):
        raise TrainingError(
            "the run was started with another recipe",
            file=there.file,
            found="; ".join(wrong[:8]) + (f"; {len(wrong) - 8} more" if len(wrong) > 8 else ""),
            todo="Put these back to resume it, or start a new run, with `init:` of its checkpoint where that is what you want.",
        )
    run = Run(folder, recipe, there.revision, there.created, there.found)
    if recipe != there.recipe:
        run.write()
    return run


def read_run(file: Path) -> Run:
    """The run of a run.json. Raise SpecError for a file that is none."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        found = {key: told[key] for key in ("transforms_fingerprint", "transforms", "load_report") if key in told}
        return Run(file.absolute().parent, Recipe.from_json(told["recipe"]), told["code_revision"], told["created"], found)
    except FileNotFoundError as error:
        raise SpecError("there is no such run", file=file, todo="Give the path of a run's run.json.") from error
    except (ValueError, KeyError) as error:
        if isinstance(error, SpecError):
            raise error.at(file=file) from error
        raise SpecError("not a run.json", file=file, found=repr(error)) from error


def unfinished_run(recipe: Recipe, home: Path) -> Run | None:
    """The last run of this very recipe that can go on, or None."""
    folder = trainings_folder(home.absolute(), recipe.robot, recipe.name)
    files = sorted(folder.glob(f"*/{RUN_FILE}"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    runs = (read_run(file) for file in files if latest_step(file.parent) is not None)
    return next((run for run in runs if not run.recipe.differences(recipe) and not run.is_finished), None)


def runs_of(recipe: Recipe, home: Path) -> list[Run]:
    """The runs of this recipe but for what may change when one goes on, the last one first."""
    folder = trainings_folder(home.absolute(), recipe.robot, recipe.name)
    files = sorted(folder.glob(f"*/{RUN_FILE}"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    found = []
    for file in files:
        try:
            found.append(read_run(file))
        except SpecError:
            # Of a version of this project whose recipes were others: it cannot be one of this recipe.
            continue
    return [run for run in found if not run.recipe.differences(recipe)]


def last_run(home: Path, robot: str, training: str) -> Run | None:
    """The run of a training that was begun or changed last, of whatever recipe."""
    files = trainings_folder(home.absolute(), robot, training).glob(f"*/{RUN_FILE}")
    newest = max(files, key=lambda file: file.stat().st_mtime_ns, default=None)
    return None if newest is None else read_run(newest)


def code_revision() -> str:
    """The git commit of this code, with `-dirty` where files were changed; the package's version where there is no repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(_HERE), *arguments], capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        # Paths that git does not know here belong to another repository around an installed package.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return f"vla-ops {version('vla-ops')}"
