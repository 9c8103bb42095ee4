"""`vla-ops dataset`: what can be done with LeRobot datasets from elsewhere, without a robot's YAML."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from vla_ops.datasets.ticks import Progress


@dataclass(frozen=True)
class ConvertDataset:
    """Convert an existing LeRobot dataset (v2.0, v2.1 or v3.0) to another version, copying rows and video packets as they are."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """Folder of the dataset. It is never changed."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET")]
    """Folder to make. It appears whole or not at all, and must not be there."""
    to: Literal["v2.0", "v2.1", "v3.0"]
    """Version of the result."""
    without: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FEATURE [FEATURE ...]")] = ()
    """Leave these video features out, for one that is declared and has no files."""
    image_quantiles: bool = False
    """Decode the pictures that LeRobot samples for the quantiles of images, where the source has none. To v3.0."""

    def run(self) -> int:
        """Convert, and print what was done and what of the source is not in the result."""
        from vla_ops.datasets.convert import convert_dataset

        with _bar() as progress:
            report = convert_dataset(
                self.source,
                self.target,
                to=self.to,
                without=self.without,
                image_quantiles=self.image_quantiles,
                progress=progress,
            )
        sys.stdout.writelines(f"{line}\n" for line in report.lines())
        return 0


@dataclass(frozen=True)
class CheckDataset:
    """Say whether an existing LeRobot dataset is whole: what is missing, cut off, listed twice or of differing length, by name."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of the dataset."""
    without: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FEATURE [FEATURE ...]")] = ()
    """Do not look at these video features."""

    def run(self) -> int:
        """Read all rows and packets, and decode nothing."""
        from vla_ops.datasets.convert import check_dataset

        sys.stdout.write(f"{check_dataset(self.folder, without=self.without)}\n")
        return 0


@dataclass(frozen=True)
class Dataset:
    """Look after LeRobot datasets from elsewhere."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[ConvertDataset, tyro.conf.subcommand("convert")] | Annotated[CheckDataset, tyro.conf.subcommand("check")]
    ]

    def run(self) -> int:
        """Run the one that was asked for."""
        return self.command.run()


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """A bar on a terminal, and nothing elsewhere."""
    if not sys.stdout.isatty():
        yield None
        return
    from rich.progress import Progress as Bars

    with Bars(transient=True) as bars:
        bar = bars.add_task("converting")
        yield lambda done, total: bars.update(bar, completed=done, total=total)
