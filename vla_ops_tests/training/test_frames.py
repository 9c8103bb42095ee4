from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.mixture.sampling import Sampling, SourceSampling, write_sampling
from vla_ops.errors import DatasetError, RecordingFormatError, SchemaMismatchError
from vla_ops.training.data import Frames, mixture_sources, read_frames
from vla_ops_tests.training.datasets import CAMERAS, NAMES, change_info, write_v3, write_v21


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_v3(tmp_path_factory.mktemp("v3"), [7, 5, 9, 3], codec="mjpeg", held_out=(1, 3))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def read(folder: Path, **options: object) -> Frames:
    return read_frames(folder, **{"cameras": CAMERAS, "state_names": NAMES, "action_names": NAMES, **options})  # pyright: ignore[reportArgumentType]


def rewrite(folder: Path, name: str, values: object) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    column = pa.array(values) if not isinstance(values, pa.Array) else values
    pq.write_table(
        table.set_column(table.column_names.index(name), name, column) if name in table.column_names else table.append_column(name, column),
        path,
    )


def test_numbers_are_by_row_and_chunks_end_with_the_episode(folder: Path) -> None:
    frames = read(folder)
    assert len(frames) == 24
    assert frames.states[:, 0].tolist() == list(range(24))
    assert frames.index.tolist() == list(range(24))
    chunk, is_pad = frames.chunk(np.array([0, 5, 6, 7, 23]), 3)
    assert chunk[..., 0].tolist() == [[1, 2, 3], [6, 7, 7], [7, 7, 7], [8, 9, 10], [24, 24, 24]]
    assert is_pad.tolist() == [[False] * 3, [False, False, True], [False, True, True], [False] * 3, [False, True, True]]
    assert [frames.texts[k] for k in frames.text_of[[0, 7, 12, 21]]] == ["pick", "place", "pick", "place"]


def test_held_out_episodes_are_the_validation_set_and_in_no_training(folder: Path) -> None:
    frames = read(folder)
    assert frames.training_rows().tolist() == [*range(7), *range(12, 21)]
    assert frames.validation_rows().tolist() == [*range(7, 12), *range(21, 24)]
    assert frames.validation_rows(limit=3).tolist() == [7, 10, 23]


def test_a_v21_dataset_has_the_same_numbers(tmp_path: Path) -> None:
    v3, v21 = write_v3(tmp_path / "a", [7, 5, 9]), write_v21(tmp_path / "b", [7, 5, 9])
    one, other = read(v3), read(v21)
    for name in ("states", "actions", "index", "text_of", "starts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.texts == other.texts


def test_masks_of_mixtures_are_read(copied: Path) -> None:
    def add(info: dict) -> None:
        info["features"] |= {
            "mask.observation.images.cam_wrist": {"dtype": "bool", "shape": [1], "names": None},
            "mask.action": {"dtype": "bool", "shape": [3], "names": NAMES},
        }

    change_info(copied, add)
    rewrite(copied, "mask.observation.images.cam_wrist", [k < 12 for k in range(24)])
    rewrite(copied, "mask.action", pa.FixedSizeListArray.from_arrays(pa.array([True, True, False] * 24), 3))
    frames = read(copied)
    assert frames.camera_masks["cam_wrist"].tolist() == [True] * 12 + [False] * 12
    assert "cam_high" not in frames.camera_masks
    assert frames.action_mask is not None
    assert frames.action_mask.tolist() == [[True, True, False]] * 24
    assert frames.state_mask is None


def source(name: str, probability: float, episodes: list[list[int]]) -> SourceSampling:
    """A source as a mixture's meta/sampling.json has it; what a training does not read of it is 0."""
    return SourceSampling(name, name, "v", None, probability, episodes, [], [], 0, 0, 0.0)


def test_frames_of_a_mixture_know_their_source_and_trainings_leave_out_what_is_held_out(copied: Path) -> None:
    assert mixture_sources(read(copied)) is None
    write_sampling(copied, Sampling(24, [source("a", 0.25, [[0, 2]]), source("b", 0.75, [[2, 4]])]))
    frames = read(copied)
    starts = frames.starts.tolist()
    assert frames.source_of is not None
    assert [frames.sources[k] for k in frames.source_of] == ["a"] * starts[2] + ["b"] * (24 - starts[2])
    found = mixture_sources(frames)
    assert found is not None
    training = set(frames.training_rows().tolist())
    assert [(s.name, s.share) for s in found] == [("a", 0.25), ("b", 0.75)]
    assert [set(s.rows.tolist()) for s in found] == [training & set(range(starts[2])), training & set(range(starts[2], 24))]
    assert training != set(range(24))


def test_an_episode_of_no_source_is_refused(copied: Path) -> None:
    write_sampling(copied, Sampling(24, [source("a", 1.0, [[0, 2]])]))
    with pytest.raises(DatasetError, match=r"an episode of the mixture is of no source .*sampling\.json.*2"):
        read(copied)
    (copied / "meta/sampling.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"cannot be read.*sampling\.json"):
        read(copied)


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        ("cam_hihg", "Did you mean 'cam_high'"),
        ("observation.images.cam_wrst", "Did you mean"),
        ("top", "found cameras cam_high, cam_wrist"),
    ],
)
def test_a_camera_that_the_dataset_lacks_is_named_with_the_nearest(folder: Path, camera: str, said: str) -> None:
    with pytest.raises(DatasetError, match=rf"the dataset lacks a camera.*stream {camera}.*{said}"):
        read(folder, cameras=("cam_high", camera))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([*NAMES, "j4"], r"dimension j4.*found 3: j1, j2, gripper; expected 4"),
        (NAMES[:2], r"dimension gripper.*found 3"),
        (["j1", "j9", "gripper"], "dimension j9"),
    ],
)
def test_actions_of_another_width_or_other_names_are_refused_by_name(folder: Path, names: list[str], said: str) -> None:
    with pytest.raises(SchemaMismatchError, match=rf"stream action, {said}"):
        read(folder, action_names=names)


def test_rows_of_another_width_than_info_says_are_refused(copied: Path) -> None:
    rewrite(copied, "action", [[0.0, 1.0]] * 24)
    with pytest.raises(DatasetError, match=r"episode_000000, stream action.*widths \[2\].*expected width 3"):
        read(copied)


def test_a_number_that_is_not_finite_is_named(copied: Path) -> None:
    values = np.zeros((24, 3), np.float32)
    values[14, 1] = np.nan
    rewrite(copied, "observation.state", pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3))
    with pytest.raises(DatasetError, match=r"episode episode_000002, stream observation\.state, dimension j2, frame 2.*found nan"):
        read(copied)


def test_rows_of_another_episode_are_refused(copied: Path) -> None:
    rewrite(copied, "episode_index", [0] * 8 + [1] * 4 + [2] * 9 + [3] * 3)
    with pytest.raises(DatasetError, match=r"rows of an episode are another one's.*episode_000001.*found episode_index 0"):
        read(copied)


def test_missing_videos_are_named_before_training(copied: Path) -> None:
    next((copied / "videos/observation.images.cam_wrist").rglob("*.mp4")).rename(copied / "gone.mp4")
    with pytest.raises((DatasetError, RecordingFormatError), match="cam_wrist"):
        read(copied)
    assert len(read(copied, cameras=("cam_high",))) == 24


def test_an_empty_training_or_validation_set_is_refused(copied: Path) -> None:
    about = copied / "meta/vla_ops.json"
    written = json.loads(about.read_text())
    about.write_text(json.dumps(written | {"held_out": [0, 1, 2, 3]}))
    with pytest.raises(DatasetError, match=r"no episode is left for training.*4 of them held out"):
        read(copied).training_rows()
    about.write_text(json.dumps(written | {"held_out": []}))
    with pytest.raises(DatasetError, match="the validation set is empty"):
        read(copied).validation_rows()
    about.write_text(json.dumps(written | {"held_out": [9]}))
    with pytest.raises(DatasetError, match=r"held out|holds out.*found episode 9"):
        read(copied)


def test_a_data_file_that_ends_too_early_is_named(copied: Path) -> None:
    path = copied / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 20), path)
    with pytest.raises(DatasetError, match=r"ends before its episode.*episode_000002.*found 8 rows; expected 9 frames"):
        read(copied)


def test_a_partial_copy_of_a_real_dataset_is_refused_by_its_first_missing_file(recordings_dir: Path) -> None:
    folder = recordings_dir / "lerobot/unitree_g1_v21_partial"
    with pytest.raises((DatasetError, RecordingFormatError)):
        read_frames(folder, cameras=())


def test_images_in_parquet_of_a_v21_dataset_have_their_numbers(golden_dir: Path) -> None:
    frames = read_frames(golden_dir / "norm_stats/lerobot_v21_aloha_img32", cameras=("top",))
    assert (len(frames), len(frames.places), len(frames.stills)) == (559, 6, 1)
