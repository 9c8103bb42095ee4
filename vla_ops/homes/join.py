"""What two machines have made of one home, joined unit by unit."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ops.homes.state import TRAININGS, State, content_of


@dataclass(frozen=True)
class Joined:
    """Units by what is to be done with them. What is as it was, or the same on both sides, is in none."""

    # Others changed, made or removed them.
    theirs: tuple[str, ...]
    # Changed, made or removed here.
    mine: tuple[str, ...]
    # Made or changed on both sides, to something else.
    both: tuple[str, ...]

    @property
    def torn(self) -> tuple[str, ...]:
        """Those of `both` that nobody can make again: parts of runs. Of the others the later one counts, as on one disk."""
        return tuple(unit for unit in self.both if unit.split("/")[0] == TRAININGS)


def join(base: State, mine: State, theirs: State) -> Joined:
    """Compare what is here and what is in the home with what both were when they were last brought together.

    What one side changed and the other removed stays, changed.
    """
    found: dict[str, list[str]] = {"theirs": [], "mine": [], "both": []}
    for unit in sorted({*base.units, *mine.units, *theirs.units}):
        was, here, there = (content_of(state.units.get(unit)) for state in (base, mine, theirs))
        if here == there:
            continue
        if here == was or (here is None and there != was):
            found["theirs"].append(unit)
        else:
            found["mine" if there in (was, None) else "both"].append(unit)
    return Joined(**{side: tuple(units) for side, units in found.items()})
