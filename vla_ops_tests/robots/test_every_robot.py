"""What holds for every robot that is shipped: it loads, and its header says what a person needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vla_ops.defs_file import component_of
from vla_ops.mixture_file import COMPONENT_TYPE as MIXTURE
from vla_ops.mixture_file import load_mixture
from vla_ops.robot_file import load_robot
from vla_ops_tests.robots.shipped import ROBOTS
from vla_ops_tests.robots.variants import header

SHIPPED = sorted(path.parent.name for path in ROBOTS.glob("*/defs.yaml"))
MIXTURES = [name for name in SHIPPED if component_of(ROBOTS / name) == MIXTURE]
NAMES = [name for name in SHIPPED if name not in MIXTURES]
OURS = {
    "aloha_real", "realman_single", "realman_dual", "piper", "piper_dual",
    "flexiv_qpos", "flexiv_pose", "flexiv_bimanual", "flexiv_bimanual_zarr",
}  # fmt: skip


def test_the_robots_of_the_field_are_there() -> None:
    assert set(NAMES) >= OURS


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_is_named_after_its_folder(name: str) -> None:
    robot = load_robot(ROBOTS / name)
    assert robot.name == name
    assert len(robot.spec.delta_mask) == len(robot.spec.action_dims)
    assert Path(robot.recordings_uri).parent.parent == ROBOTS or "://" in robot.recordings_uri or robot.spec.recordings.uri.startswith("/")


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_loads_and_its_header_says_what_a_person_needs(name: str) -> None:
    assert load_mixture(ROBOTS / name).name == name
    said = header(ROBOTS / name / "defs.yaml")
    for words in ("Expected", "Check with: vla-ops status", "A good run shows:"):
        assert words in said, f"{name}: the header lacks {words!r}"


@pytest.mark.parametrize("name", NAMES)
def test_its_header_says_what_to_expect_how_to_check_and_what_a_good_run_shows(name: str) -> None:
    said = header(ROBOTS / name / "defs.yaml")
    for words in ("Expected", "Check with: vla-ops inspect", "A good run shows:"):
        assert words in said, f"{name}: the header lacks {words!r}"
    assert len(said.split("Expected")[0]) > 40, f"{name}: the header does not begin with the hardware"


@pytest.mark.parametrize("name", sorted(OURS))
def test_its_header_names_every_stream_it_reads_and_how_to_convert(name: str) -> None:
    said = header(ROBOTS / name / "defs.yaml")
    assert f"vla-ops convert {name}" in said
    listed = {stream.strip("/") for word in said.split() for stream in _expanded(word.strip(","))}
    assert {stream.strip("/") for stream in load_robot(ROBOTS / name).spec.streams_mapped} <= listed


def _expanded(word: str) -> list[str]:
    """`a{0,1}_b` is a0_b and a1_b, as a shell has it."""
    found = re.search(r"\{([^{}]*)\}", word)
    if found is None:
        return [word]
    return [text for part in found[1].split(",") for text in _expanded(word[: found.start()] + part + word[found.end() :])]
