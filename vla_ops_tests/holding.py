"""Programs that wait at a certain point until they are told to go on, so that no clock decides where they are caught.

The points are in the programs themselves, by a `sitecustomize` that those inherit which are started meanwhile; nothing else changes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_SITE = """
import importlib.abc, importlib.util, os, sys, time
from pathlib import Path

def is_held(name):
    return Path({folder!r}, name).exists()

{point}

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def executed(module):
            execute(module)
            change(module)
        spec.loader.exec_module = executed
        return spec

sys.meta_path.insert(0, Watch())
"""

# After the line of a step: until a signal that stops it has come, or `release`.
_TRAINER = """
def change(metrics):
    from vla_ops.training import stopping
    log, note, asked = metrics.Metrics.log, stopping.Stopping._note, []
    def noted(self, number, *rest):
        asked.append(number)
        note(self, number, *rest)
    def logged(self, step, values):
        log(self, step, values)
        while self.writes and step == {step} and not asked and is_held("trainer"):
            time.sleep(0.005)
    metrics.Metrics.log, stopping.Stopping._note = logged, noted
"""

# Before a checkpoint gets its name.
_CHECKPOINT = """
def change(metrics):
    rename = os.rename
    def renamed(source, target, **options):
        while "orbax-checkpoint-tmp" in str(source) and str(target).endswith("/{step}") and is_held("trainer"):
            time.sleep(0.005)
        rename(source, target, **options)
    os.rename = renamed
"""

# In the middle of a video, of which so many frames are written; meanwhile it tells how far it is, as it does where frames come.
_WORKER = """
def change(convert):
    from vla_ops.episodes import video
    whole, count, at_work = convert.convert_recording, video._Job.count, []
    def converted(job, progress):
        def told(frames, fraction):
            progress(frames, fraction)
            while is_held(job.recording):
                time.sleep(0.01)
                progress(0, fraction)
        at_work.append(job.recording)
        return whole(job, told)
    def counted(self, frames):
        count(self, frames)
        while self.done >= 100 and is_held(at_work[-1]) and not self.stop.is_set():
            time.sleep(0.01)
    convert.convert_recording, video._Job.count = converted, counted
"""


class Hold:
    """`environment` is that of the programs that can be held."""

    def __init__(self, folder: Path, module: str, point: str, *held: str) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        (folder / "sitecustomize.py").write_text(_SITE.format(folder=str(folder), module=module, point=point))
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment: Mapping[str, str] = {"PYTHONPATH": os.pathsep.join(paths)}
        self.hold(*held)

    def hold(self, *names: str) -> None:
        """Keep who comes to these."""
        for name in names:
            (self._folder / name).touch()

    def release(self, *names: str) -> None:
        """Let go of these, or of all."""
        for path in self._folder.iterdir():
            if path.is_file() and path.suffix != ".py" and (not names or path.name in names):
                path.unlink()


def hold_trainer(folder: Path, *, step: int) -> Hold:
    """A trainer that waits after the line of a step, until a signal stops it."""
    return Hold(folder, "vla_ops.training.metrics", _TRAINER.format(step=step), "trainer")


def hold_checkpoint(folder: Path, *, step: int) -> Hold:
    """A trainer whose checkpoint of a step stays unfinished."""
    return Hold(folder, "vla_ops.training.metrics", _CHECKPOINT.format(step=step), "trainer")


def hold_workers(folder: Path, *recordings: str) -> Hold:
    """Workers that stay in the middle of these recordings, with a hundred frames of their video written."""
    return Hold(folder, "vla_ops.episodes.convert", _WORKER, *recordings)
