"""What two machines have made of one home, joined."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vla_ops.homes.join import join
from vla_ops.homes.state import Kept, State, content_of, units_of

CONTENTS = st.sampled_from(["a", "b", "c"])
NAMES = st.sampled_from(["episodes/1.mcap", "lerobot_v3/current.json", "trainings/pi0/run/7", "findings.json"])
STATES = st.dictionaries(NAMES, CONTENTS).map(lambda units: State({unit: {f"{unit}/file": Kept(1, of, 0)} for unit, of in units.items()}))


@given(base=STATES, mine=STATES, theirs=STATES)
def test_each_unit_is_on_one_side_alone_and_what_is_the_same_on_both_is_left_alone(base: State, mine: State, theirs: State) -> None:
    found = join(base, mine, theirs)
    named = [*found.theirs, *found.mine, *found.both]
    assert len(named) == len(set(named))
    differing = {unit for unit in {*mine.units, *theirs.units} if content_of(mine.units.get(unit)) != content_of(theirs.units.get(unit))}
    assert set(named) == differing


@given(base=STATES, mine=STATES, theirs=STATES)
def test_what_only_one_side_changed_is_that_sides(base: State, mine: State, theirs: State) -> None:
    found = join(base, mine, theirs)
    for unit in found.mine:
        assert content_of(mine.units.get(unit)) != content_of(base.units.get(unit))
        # Others did not change it, but may have removed it.
        assert unit not in theirs.units or content_of(theirs.units[unit]) == content_of(base.units.get(unit))
    for unit in found.theirs:
        assert content_of(theirs.units.get(unit)) != content_of(base.units.get(unit))
        assert unit not in mine.units or content_of(mine.units[unit]) == content_of(base.units.get(unit))
    for unit in found.both:
        assert len({content_of(state.units[unit])[f"{unit}/file"] for state in (mine, theirs)}) == 2  # type: ignore[index]


@given(base=STATES, mine=STATES, theirs=STATES)
def test_the_other_machine_sees_it_the_other_way_round(base: State, mine: State, theirs: State) -> None:
    found, seen = join(base, mine, theirs), join(base, theirs, mine)
    assert (found.theirs, found.mine, found.both) == (seen.mine, seen.theirs, seen.both)
    assert set(found.torn) == {unit for unit in found.both if unit.startswith("trainings/")}


def test_a_unit_is_what_appears_at_once() -> None:
    wanted = {
        "recordings.json": "recordings.json",
        "episodes/day/1.mcap/recording.json": "episodes/day/1.mcap",
        "episodes/day/1.mcap/0/cam_high.mp4": "episodes/day/1.mcap",
        "episodes/day/2.mcap/recording.json": "episodes/day/2.mcap",
        "quarantine/day/1.mcap.json": "quarantine/day/1.mcap.json",
        "lerobot_v3/current.json": "lerobot_v3/current.json",
        "lerobot_v3/0123/meta/info.json": "lerobot_v3/0123",
        "norm_stats/4567/norm_stats.json": "norm_stats/4567",
        "exports/pi0/run-7-openpi/model.safetensors": "exports/pi0/run-7-openpi",
        "trainings/pi0/run/log.txt": "trainings/pi0/run/log.txt",
        "trainings/pi0/run/7/params/d/0": "trainings/pi0/run/7",
    }
    assert units_of(wanted) == wanted
