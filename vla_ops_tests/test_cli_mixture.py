"""`vla-ops` on a mixture: made of its robots' datasets, and where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, SOURCES, Lab
from vla_ops_tests.lineage.trainings import SMALL
from vla_ops_tests.terminal import Terminal, assert_refused


@pytest.fixture
def vla_ops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, monkeypatch, capsys)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.add("left", LEFT, stats=True)
    made.add("right", RIGHT, stats=True)
    made.mix("both", *SOURCES, norm_stats="merged")
    return made


def test_from_status_over_convert_to_norm_stats_and_back(vla_ops: Terminal, lab: Lab) -> None:
    before = vla_ops("status", "both")
    assert (before.code, before.err) == (0, "")
    assert before.out.count("none yet") == 2
    assert "not in the mixture yet" in before.out

    made = vla_ops("convert", "both")
    assert (made.code, made.err) == (0, "")
    assert Path(made.out.strip().splitlines()[-1]).parent == lab.store("both").root / "lerobot_v3"
    assert "is up to date" in vla_ops("convert", "both").out

    stats = vla_ops("norm-stats", "both")
    assert stats.code == 0
    assert "merged, with the mixture's weights" in stats.out
    after = vla_ops("status", "both")
    assert "4 episodes, 26 frames" in after.out
    assert "probability 0.667" in after.out
    assert stats.out.strip().splitlines()[-1] in after.out
    assert "STALE" not in after.out


def test_status_names_a_source_that_has_changed_since(vla_ops: Terminal, lab: Lab) -> None:
    vla_ops("convert", "both")
    lab.add("left", LEFT.__class__(**{**vars(LEFT), "episodes": (*LEFT.episodes, (5, "pick"))}))
    said = vla_ops("status", "both").out
    assert "STALE       left changed since: `vla-ops convert both`" in said


def test_status_says_why_a_mixture_cannot_be_made(vla_ops: Terminal, lab: Lab) -> None:
    lab.write_yaml("new", RIGHT.document)
    lab.mix("both", *SOURCES, {"robot": "new", "weight": 1.0, "cameras": {"cam_top": "cam_high"}})
    said = vla_ops("status", "both")
    assert said.code == 0
    assert "BLOCKED" in said.out
    assert "new has no dataset yet" in said.out


@pytest.mark.parametrize("flags", [["--only", "rec_0"], ["--workers", "2"], ["--ray", "auto"]])
def test_what_is_for_recordings_is_refused(vla_ops: Terminal, lab: Lab, flags: list[str]) -> None:
    assert_refused(vla_ops("convert", "both", *flags), flags[0], "both is a mixture")


def test_a_mixtures_training_is_checked_and_listed_as_a_robots(vla_ops: Terminal, lab: Lab) -> None:
    lab.mix("both", *SOURCES, trainings={"small": SMALL})
    assert_refused(vla_ops("train", "both", "small", "--check-only"), "the mixture both has no dataset yet", "vla-ops convert both")
    vla_ops("convert", "both")
    vla_ops("norm-stats", "both")
    checked = vla_ops("train", "both", "small", "--check-only")
    assert checked.code == 0, checked.err
    assert "for left" in checked.out
    assert_refused(vla_ops("train", "both", "smal", "--check-only"), "both has no such training", "Did you mean 'small'?")
    assert "training    small: not trained yet: `vla-ops train both small`" in vla_ops("status", "both").out
