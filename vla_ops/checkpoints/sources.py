"""`init:`: a path, a URL, a publication, or a run of this project, as a source of parameters.

A run is `<robot>/<training>`, or `<robot>/<training>/<run>`: of it the last checkpoint, or with `@best` or `@<step>` behind it another.
A publication is what `vla-ops publish` calls it, with or without `@<version>`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vla_ops.checkpoints.layout import Checkpoint, latest_step, marked_best, open_checkpoint, steps_in
from vla_ops.checkpoints.loading import CheckpointSource, LoadRules, Source
from vla_ops.checkpoints.paligemma import PALIGEMMA_RULES, PaliGemmaSource
from vla_ops.errors import CheckpointError
from vla_ops.fetching.download import download
from vla_ops.fetching.remote import local_path
from vla_ops.kept import hold_around
from vla_ops.published.pull import PULLED, Version, bring, require_no_publication

_TRAININGS, _CACHE = "trainings", "cache/checkpoints"


def init_source(uri: str, home: Path, *, say: Callable[[str], None] = lambda _: None) -> Source:
    """The parameters that `init:` names; remote ones are fetched into the store at `home` first.

    Raise CheckpointError where there is no checkpoint, FetchError where it cannot be fetched, PublishError for a version that is not
    what was published.
    """
    if (published := _published(uri, home, say)) is not None:
        version, folder = published
        return CheckpointSource(open_checkpoint(folder), name=version.name)
    path = _unpublished(uri, home, say)
    return PaliGemmaSource(path) if path.suffix == ".npz" else CheckpointSource(open_checkpoint(path))


def default_rules(source: Source) -> LoadRules:
    """What need not be in a source: LoRA's factors, and in PaliGemma's file all that PaliGemma has not."""
    return PALIGEMMA_RULES if isinstance(source, PaliGemmaSource) else LoadRules()


def checkpoint_at(uri: str, home: Path, *, say: Callable[[str], None] = lambda _: None) -> Checkpoint:
    """The checkpoint that a URI names, with its assets. Raise CheckpointError or FetchError as `init_source`."""
    return open_checkpoint(locate(uri, home, say=say))


def locate(uri: str, home: Path, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Where what `uri` names is on this machine, fetched if need be. A run of this project comes before a relative path."""
    published = _published(uri, home, say)
    return _unpublished(uri, home, say) if published is None else published[1]


def _unpublished(uri: str, home: Path, say: Callable[[str], None]) -> Path:
    local = local_path(uri)
    if local is None:
        return download(uri, home / _CACHE, check=lambda files: require_no_publication(files, uri), say=say)
    # Of a cache, and of another process's, perhaps.
    hold_around(local.absolute())
    run = _run_named(uri, home)
    return local if run is None else run / str(_step(run, uri.partition("@")[2]))


def _published(uri: str, home: Path, say: Callable[[str], None]) -> tuple[Version, Path] | None:
    """The version that a URI names and where it is here, where it is that of a publication and of no run."""
    return bring(uri, home / PULLED, say=say) if _run_named(uri, home) is None else None


def _run_named(uri: str, home: Path) -> Path | None:
    return None if ":" in uri.partition("/")[0] else _run_of(uri.partition("@")[0], home)


def _run_of(name: str, home: Path) -> Path | None:
    """The run folder of `<robot>/<training>[/<run>]`: of several the one that wrote a checkpoint last."""
    robot, _, rest = name.partition("/")
    training, _, run = rest.partition("/")
    folder = home / robot / _TRAININGS / training
    if not training or robot in (".", "..", "~", "") or "/" in run or not folder.is_dir():
        return None
    if run:
        return folder / run
    runs = [inner for inner in folder.iterdir() if latest_step(inner) is not None]
    if not runs:
        todo = f"Train it first: vla-ops train {robot} {training}."
        raise CheckpointError("the training has no checkpoint yet", file=folder, todo=todo)
    return max(runs, key=lambda inner: (inner / str(latest_step(inner))).stat().st_mtime_ns)


def _step(run: Path, asked: str) -> int:
    steps = steps_in(run)
    step = marked_best(run) if asked == "best" else int(asked) if asked.isdecimal() else max(steps, default=None) if not asked else None
    if step in steps:
        return step
    raise CheckpointError(
        "the run has no such checkpoint",
        file=run,
        found=", ".join(map(str, steps)) or "none",
        expected=asked or "any",
        todo="Name one of them behind @, or `best` where a best one is marked, or leave that away for the last one.",
    )
