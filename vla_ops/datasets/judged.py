"""What was measured of a dataset version and held against the robot's YAML: done once, kept, and refused where it contradicts.

`<store>/semantics/<key>.json` and `.png`; the key is of the dataset's version and of all that the YAML claims of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vla_ops.datasets.lerobot_v3 import DatasetVersion
from vla_ops.episodes.semantics import Seen, Verdict, contradictions, judge
from vla_ops.episodes.semantics.picture import draw_actions
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.errors import DatasetError
from vla_ops.files import replacing, write_json
from vla_ops.robot import RobotSpec, fingerprint

# Raise when the same data and YAML would now be judged otherwise.
JUDGES_VERSION = 1
_SAID = 10


@dataclass(frozen=True)
class Judged:
    """The verdicts of every check that the YAML does not ignore, and the picture of the actions."""

    verdicts: Mapping[str, list[Verdict]]
    picture: Path

    def against(self, spec: RobotSpec, level: str) -> list[Verdict]:
        """The contradictions of the checks that have this level."""
        return [v for check, found in self.verdicts.items() if getattr(spec.checks, check) == level for v in contradictions(found)]


def claims(spec: RobotSpec) -> str:
    """Fingerprint of all that the YAML says and the data are held against."""
    read = spec.model_dump(mode="json", include={"timeline", "state", "action", "cameras", "task", "checks"})
    return fingerprint({"judges": JUDGES_VERSION, **read})


def judged(dataset: DatasetVersion, episodes: Sequence[Episode], store: RobotStore, spec: RobotSpec) -> Judged:
    """Judge the dataset made of `episodes`, or read what was found before."""
    root = store.root / "semantics"
    key = fingerprint([dataset.version, claims(spec)])
    known, picture = root / f"{key}.json", root / f"{key}.png"
    if known.exists() and picture.exists():
        found = json.loads(known.read_text(encoding="utf-8"))
        return Judged({check: [Verdict(**verdict) for verdict in each] for check, each in found.items()}, picture)
    seen = Seen.of(episodes)
    verdicts = judge(seen, spec)
    with replacing(picture) as work:
        work.write_bytes(draw_actions(seen, spec, verdicts.get("actions", [])))
    write_json(known, {check: [asdict(verdict) for verdict in each] for check, each in verdicts.items()})
    return Judged(verdicts, picture)


def refuse_contradicted(found: Judged, spec: RobotSpec) -> None:
    """Raise DatasetError naming every contradiction of a check whose level is `block`."""
    wrong = found.against(spec, "block")
    if wrong:
        said = "\n".join(f"- {verdict}" for verdict in wrong[:_SAID]) + (f"\nand {len(wrong) - _SAID} more" if len(wrong) > _SAID else "")
        checks = ", ".join(dict.fromkeys(f"{verdict.check}: warn" for verdict in wrong))
        raise DatasetError(
            f"the data contradict the robot's YAML:\n{said}\nNothing is made of this dataset until that is settled",
            todo=f"Where you know better, write `checks: {{{checks}}}`.",
        )
