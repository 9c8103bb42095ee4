from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.curation import Curation, Trim, Trims, load_curation, split_episode
from vla_ops.errors import SpecError

WHOLE = """\
episodes:
  station1/3.mcap: {exclude: "the cup fell before the robot touched it"}
  station1/4.mcap/2: {task: "put the cup on the shelf"}
  station2/7.mcap: {trim: {start_s: 1.2, end_s: 14.0}}
held_out: {episodes: [station1/9.mcap], stations: [station3], fraction: 0.1, seed: 4}
"""


def loaded(folder: Path, text: str) -> Curation:
    (folder / "curation.yaml").write_text(text)
    return load_curation(folder)


def mistakes(folder: Path, text: str) -> dict[int, str]:
    """Line -> what was said of it."""
    with pytest.raises(SpecError) as error:
        loaded(folder, text)
    head, *lines = str(error.value).splitlines()
    assert head == "the robot's curation has mistakes"
    found = [line.removeprefix(f"{folder / 'curation.yaml'}:").split(": ", 1) for line in lines]
    return {int(number): said for number, said in found}


def test_every_kind_of_entry_is_read(tmp_path: Path) -> None:
    curation = loaded(tmp_path, WHOLE)
    assert curation.exclusion("station1/3.mcap") == "the cup fell before the robot touched it"
    assert curation.exclusion("station1/3.mcap", 5) == "the cup fell before the robot touched it"
    assert curation.exclusion("station1/4.mcap", 2) is None
    assert (curation.task("station1/4.mcap", 2), curation.task("station1/4.mcap", 1)) == ("put the cup on the shelf", None)
    assert curation.trims("station2/7.mcap") == Trims(whole=Trim(start_s=1.2, end_s=14.0))
    assert not curation.trims("station1/4.mcap")
    held_out = curation.spec.held_out
    assert (held_out.episodes, held_out.stations, held_out.fraction, held_out.seed) == (["station1/9.mcap"], ["station3"], 0.1, 4)
    assert curation.place(("episodes", "station2/7.mcap")) == f"{tmp_path / 'curation.yaml'}:4"
    assert curation.place(("held_out", "stations", 0)) == f"{tmp_path / 'curation.yaml'}:5"


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n", "episodes:\n#  a.mcap: {exclude: no}\nheld_out:\n", "held_out: {seed: 3}"])
def test_without_a_file_or_an_entry_nothing_is_decided(tmp_path: Path, text: str | None) -> None:
    curation = load_curation(tmp_path) if text is None else loaded(tmp_path, text)
    assert curation.decisions == {}
    assert curation.trimmed == {}


def test_the_entry_of_an_episode_counts_more_than_that_of_its_recording(tmp_path: Path) -> None:
    text = "episodes:\n  a: {task: all, trim: {start_s: 1}}\n  a/1: {task: one, trim: {end_s: 3}}\n  a/2: {exclude: why}\n"
    curation = loaded(tmp_path, text)
    assert [curation.task("a", k) for k in (0, 1, 2)] == ["all", "one", "all"]
    trims = curation.trims("a")
    assert [trims.of(k) for k in (0, 1)] == [Trim(start_s=1), Trim(end_s=3)]
    assert [curation.exclusion("a", k) for k in (1, 2, None)] == [None, "why", None]


def test_the_reason_of_an_exclusion_is_no_decision(tmp_path: Path) -> None:
    first = loaded(tmp_path, 'episodes: {a.mcap: {exclude: "the cup fell"}}').decisions
    assert loaded(tmp_path, 'episodes: {a.mcap: {exclude: "it was knocked over"}}').decisions == first
    assert loaded(tmp_path, 'episodes: {b.mcap: {exclude: "the cup fell"}}').decisions != first


def test_each_mistake_is_named_with_its_line_and_the_id_it_is_about(tmp_path: Path) -> None:
    # Ids with a capital, as pydantic names the branches of a union.
    said = mistakes(
        tmp_path,
        "episodes:\n"
        "  Station/1.mcap: {exclude: true}\n"
        "  Station/2.mcap: 3\n"
        "  Station/3.mcap: 4\n"
        "  Station/4.mcap: {trim: {start: 3}}\n"
        "  Station/5.mcap: {trim: {start_s: 3, end_s: 2}}\n"
        "  Station/6.mcap: {}\n"
        '  Station/7.mcap: {task: " "}\n'
        "  Station/8.mcap: {task: x, exclude: y}\n"
        "  Station/9.mcap: {trim: {start_s: .nan}}\n"
        "  Station/10.mcap: {trim: {start_s: 0}}\n"
        "held_out:\n"
        "  fraction: 1\n"
        "  stations: [3]\n",
    )
    assert said == {
        2: 'episodes.Station/1.mcap.exclude: found True; write why, such as {exclude: "the cup fell"}',
        3: "episodes.Station/2.mcap: Input should be a valid dictionary or instance of Edit; found 3",
        4: "episodes.Station/3.mcap: Input should be a valid dictionary or instance of Edit; found 4",
        5: "episodes.Station/4.mcap.trim.start: unknown key 'start'; did you mean 'start_s'?",
        6: "episodes.Station/5.mcap.trim: trim: keeps nothing, from start_s 3 to end_s 2",
        7: "episodes.Station/6.mcap: changes nothing; write exclude, task or trim",
        8: "episodes.Station/7.mcap.task: empty; write the text, or remove the key",
        9: "episodes.Station/8.mcap: an excluded episode has no task or trim; remove them, or `exclude`",
        10: "episodes.Station/9.mcap.trim.start_s: Input should be a finite number; found nan",
        11: "episodes.Station/10.mcap.trim: trim: cuts nothing; write start_s, end_s or both",
        13: "held_out.fraction: Input should be less than 1; found 1",
        14: "held_out.stations.0: Input should be a valid string; found 3",
    }


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("episode: {}", 1, "episode: unknown key 'episode'; did you mean 'episodes'?"),
        ("[]", 1, "expected the keys `episodes` and `held_out`"),
        ("episodes: [a.mcap]", 1, "episodes: Input should be a valid dictionary"),
        ("episodes:\n  a: {task: x}\n  a: {task: y}", 3, "a: is already at line 2; only one of them would count"),
        ("episodes:\n  7: {task: x}", 2, "episodes.7: YAML reads this id as a int, not as text; write it in quotes"),
        ("episodes: {", 2, "not YAML: did not find expected node content (text with [ ] or : inside { } needs quotes; indent with spaces)"),
    ],
)
def test_a_file_that_is_not_a_curation_is_refused_with_the_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    assert mistakes(tmp_path, text) == {line: said}


@pytest.mark.parametrize(
    ("key", "parts"), [("a/b.mcap/2", ("a/b.mcap", 2)), ("b/10", ("b", 10)), ("b/02", None), ("2", None), ("a/b.mcap", None), ("b/²", None)]
)
def test_an_episode_id_is_a_recording_id_and_a_number(key: str, parts: tuple[str, int] | None) -> None:
    assert split_episode(key) == parts
