"""A YAML that the data contradict, on real demonstrations: what the terminal, the log, the checks and what would come next say."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops_tests.lineage.conftest import Lineage
from vla_ops_tests.terminal import Ran, Terminal

SAID = ("action left_gripper", "`open_at: low`", "with `joints: [gripper]`")


@pytest.fixture
def inverted(lineage: Lineage) -> Lineage:
    """The command of the left gripper is said to open at its low end."""
    # PyYAML sorts the keys: the first gripper is the action's, not the state's.
    path = lineage.robot.folder / "defs.yaml"
    text = path.read_text()
    assert text.index("\n  action:\n") < text.index("kind: gripper") < text.index("\n  state:\n")
    path.write_text(text.replace("kind: gripper", "kind: gripper\n    open_at: low", 1))
    return lineage


@pytest.fixture
def vla_ops(inverted: Lineage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(inverted.robot.folder.parent, monkeypatch, capsys)


def assert_says(text: str, *words: str) -> None:
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"


def test_the_job_stops_at_the_dataset_and_its_log_says_why(inverted: Lineage, capfd: pytest.CaptureFixture[str]) -> None:
    result = inverted.run(raise_on_error=False)
    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [check.check_name for check in failed] == ["measured_grippers"]
    assert_says(str(failed[0].description), *SAID)
    made = {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}
    assert made == {"episodes", "lerobot_v3"}
    lines = [line for line in capfd.readouterr().err.splitlines() if "MEASURED grippers" in line]
    assert len(lines) == 1
    assert " - ERROR - " in lines[0]
    assert_says(lines[0], *SAID)


def test_the_command_line_names_it_makes_nothing_of_the_dataset_and_says_so_in_the_status(inverted: Lineage, vla_ops: Terminal) -> None:
    inverted.edit("    - lerobot_v3.0\n", "    - lerobot_v3.0\n    - lerobot_v2.1\n")
    arm = inverted.robot.folder
    converted: Ran = vla_ops("convert", arm, "--workers", "1")
    assert converted.code == 1
    assert_says(converted.err, "MEASURED grippers", *SAID)
    assert not Path(arm.parent / "home/arm/lerobot_v21").exists()
    stats = vla_ops("norm-stats", arm)
    assert (stats.code, stats.out) == (2, "")
    assert_says(stats.err, "the data contradict the robot's YAML", *SAID, "checks: {grippers: warn}")
    assert_says(vla_ops("status", arm).out, "  BLOCKED     the data contradict the robot's YAML", *SAID)
    inverted.edit("    open_at: low\n", "")
    assert vla_ops("convert", arm, "--workers", "1").code == 0
    assert_says(vla_ops("status", arm).out, "  lerobot_v21 ", "none of this dataset and YAML yet: `vla-ops norm-stats arm`")


def test_what_the_command_line_converted_is_marked_by_the_next_run_in_the_ui(inverted: Lineage, vla_ops: Terminal) -> None:
    inverted.edit("    open_at: low\n", "")
    assert vla_ops("convert", inverted.robot.folder, "--workers", "1").code == 0
    assert inverted.materialized() == {}
    assert inverted.run().success
    assert inverted.materialized() == {"a.mcap": 1, "b.mcap": 1}
    assert inverted.run().success
    assert inverted.materialized() == {"a.mcap": 1, "b.mcap": 1}


def test_norm_stats_of_a_dataset_that_was_made_with_another_yaml_are_refused(inverted: Lineage, vla_ops: Terminal) -> None:
    inverted.edit("    open_at: low\n", "")
    arm = inverted.robot.folder
    assert vla_ops("convert", arm, "--workers", "1").code == 0
    inverted.edit("images: nearest", "images: hold")
    stats = vla_ops("norm-stats", arm)
    assert stats.code == 2
    assert_says(stats.err, "the dataset of arm was made before the YAML was changed", "`vla-ops convert arm`")
