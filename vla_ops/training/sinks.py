"""W&B as a place that curves and pictures go to. It is not imported unless it is asked for, and nobody is asked anything."""

from __future__ import annotations

import importlib.util
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlparse

from vla_ops.errors import StoreError, TrainingError
from vla_ops.files import replacing
from vla_ops.training.metrics import Sink

WANDB_ID_FILE = "wandb_id.txt"
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")

type Mode = Literal["off", "offline", "online"]


class WandbSpec(Protocol):
    """The section `metrics` of a training."""

    @property
    def wandb(self) -> Mode:
        """How."""
        ...

    @property
    def project(self) -> str:
        """Where."""
        ...

    @property
    def entity(self) -> str | None:
        """Whose."""
        ...


def open_sinks(run: Path, spec: WandbSpec, *, name: str, config: Mapping[str, Any], tags: tuple[str, ...] = ()) -> list[Sink]:
    """Return the sinks that `spec` asks for. Raise TrainingError as WandbSink."""
    return [] if spec.wandb == "off" else [WandbSink(run, spec, name=name, config=config, tags=tags)]


def wandb_problem(mode: Mode) -> str | None:
    """Say why W&B cannot be used in this way, or None; nothing is imported and nobody asked."""
    if mode == "off":
        return None
    if importlib.util.find_spec("wandb") is None:
        return "the package wandb is not installed: install it, or set metrics.wandb to off"
    if mode == "online" and not _logged_in():
        return "W&B is not logged in: set WANDB_API_KEY, or run `wandb login` once, or set metrics.wandb to offline"
    return None


class WandbSink:
    """A W&B run, the same one after a resume: its id is in the run folder."""

    def __init__(self, run: Path, spec: WandbSpec, *, name: str, config: Mapping[str, Any], tags: tuple[str, ...] = ()) -> None:
        """Open the W&B run. Raise TrainingError where the package or the login is missing, or the service does not answer."""
        if problem := wandb_problem(spec.wandb):
            raise TrainingError(problem)
        import wandb  # pyright: ignore[reportMissingImports]

        about = {"project": spec.project, "entity": spec.entity, "name": name, "config": dict(config), "tags": tags}
        how = {"mode": spec.wandb, "dir": str(run), "reinit": "create_new", "settings": wandb.Settings(silent=True, console="off")}
        try:
            opened = wandb.init(id=_kept_id(run), resume="allow", **how, **about)
        except wandb.Error as error:
            todo = "Set metrics.wandb to offline and upload with `wandb sync` later, or to off."
            raise TrainingError(f"W&B could not be opened: {error}", todo=todo) from error
        self._wandb, self._run = wandb, opened
        # Steps that are taken again after a resume are logged again: W&B's own counter would refuse them.
        self._run.define_metric("*", step_metric="train_step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        self._run.log({"train_step": step, **values})

    def picture(self, step: int, name: str, file: Path) -> None:
        """See Sink."""
        self._run.log({"train_step": step, f"pictures/{name}": self._wandb.Image(str(file))})

    def refer(self, name: str, kind: str, files: Mapping[str, str], about: Mapping[str, Any], *, aliases: Sequence[str]) -> None:
        """Log an artifact of files that are elsewhere: their URIs by name. W&B holds no copy, and reads none."""
        artifact = self._wandb.Artifact(name, type=kind, metadata=dict(about))
        for file, uri in files.items():
            artifact.add_reference(uri, name=file, checksum=False)
        self._run.log_artifact(artifact, aliases=list(aliases))

    def close(self, error: BaseException | None) -> None:
        """See Sink."""
        self._run.finish(exit_code=0 if error is None else 1)


def _kept_id(run: Path) -> str:
    """The W&B id of this run folder, made where there is none yet."""
    file = run / WANDB_ID_FILE
    if file.exists():
        if found := file.read_text(encoding="utf-8").strip():
            return found
        raise StoreError("the id of the W&B run is empty", file=file, todo="Delete the file: the run then becomes another one in W&B.")
    made = secrets.token_hex(4)
    with replacing(file) as work:
        work.write_text(made, encoding="utf-8")
    return made


def _logged_in() -> bool:
    """Whether W&B will find a key without asking for one: in the environment or, as `wandb login` leaves it, in a netrc file."""
    if any(os.environ.get(name) for name in _KEYS):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    said = os.environ.get("NETRC")
    for file in [Path(said)] if said else [Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()]:
        try:
            if netrc.netrc(str(file)).authenticators(host):
                return True
        # No such file, or one that W&B cannot read either.
        except (OSError, netrc.NetrcParseError):
            continue
    return False
