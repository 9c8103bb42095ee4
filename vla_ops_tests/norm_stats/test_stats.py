from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_ops.episodes.vector_stats import vector_stats
from vla_ops.errors import DatasetError, SchemaMismatchError, StatsMismatchError, StoreError
from vla_ops.norm_stats import (
    NormStats,
    Provenance,
    check_fits,
    compute_norm_stats,
    narrow_dimensions,
    read_norm_stats,
    write_norm_stats,
    written_numbers,
)
from vla_ops_tests.norm_stats.data import all_chunks, by_rank, make_spec, vectors, write_dataset

NAMES = ["waist", "elbow", "gripper"]
LENGTHS = [40, 1, 60, 99]
SPEC = make_spec(NAMES, horizon=8)


def walk(seed: int = 0, *, frames: int = sum(LENGTHS)) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(scale=0.05, size=(frames, len(NAMES))), axis=0).astype(np.float32)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", walk(), walk(1), LENGTHS, names=NAMES)


@pytest.fixture
def stats(dataset: Path) -> NormStats:
    return compute_norm_stats(dataset, spec=SPEC)


def test_stats_of_a_folder_are_those_of_its_chunks(stats):
    rows = all_chunks(walk(), walk(1), LENGTHS, horizon=8, delta_mask=(True, True, False)).reshape(-1, 3)
    assert (stats.frames, stats.state.count, stats.actions.count) == (200, 200, 1600)
    np.testing.assert_allclose(stats.actions.mean, rows.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(stats.actions.std, rows.std(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(stats.actions.q01, by_rank(rows, 1))
    np.testing.assert_array_equal(stats.actions.q99, by_rank(rows, 99))
    assert stats.provenance.robot == "test_arm"
    assert stats.provenance.delta_mask == (True, True, False)


def test_an_absolute_action_space_subtracts_nothing(dataset):
    stats = compute_norm_stats(dataset, spec=make_spec(NAMES, horizon=1, action_space="absolute"))
    np.testing.assert_array_equal(stats.actions.q99, by_rank(walk(1).astype(np.float64), 99))


def test_files_are_read_in_the_order_of_their_numbers(tmp_path, stats):
    spread = write_dataset(tmp_path / "spread", walk(), walk(1), LENGTHS, names=NAMES, files=4)
    # As text, file-1000 would stand before file-999.
    for old, new in ((2, 999), (3, 1000)):
        (spread / f"data/chunk-000/file-{old:03d}.parquet").rename(spread / f"data/chunk-000/file-{new}.parquet")
    again = compute_norm_stats(spread, spec=SPEC)
    assert written_numbers(again) == written_numbers(stats)
    assert again.version == stats.version


def test_openpi_504_images_are_never_read(tmp_path, stats):
    folder = write_dataset(tmp_path / "with_images", walk(), walk(1), LENGTHS, names=NAMES)
    [path] = folder.glob("data/*/*.parquet")
    table = pq.read_table(path)
    images = pa.array([np.random.default_rng(k).bytes(5000) for k in range(len(table))])
    pq.write_table(table.append_column("observation.images.top", images), path, compression="none", use_dictionary=False)
    column = next(
        c for g in [pq.read_metadata(path).row_group(0)] for c in map(g.column, range(g.num_columns)) if "images" in c.path_in_schema
    )
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(damaged)
    with pytest.raises(OSError, match=r"\w"):
        pq.read_table(path)
    assert written_numbers(compute_norm_stats(folder, spec=SPEC)) == written_numbers(stats)


def test_openpi_832_openpi_and_lerobot_shapes_hold_the_same_numbers(stats):
    lerobot = vector_stats(walk())
    for name in ("q01", "q99", "min", "max"):
        assert lerobot[name] == getattr(stats.state, name).tolist()
    for name in ("mean", "std"):
        np.testing.assert_allclose(lerobot[name], getattr(stats.state, name), rtol=1e-10)


@pytest.mark.slow  # importing lerobot, and torch with it, takes most of it
def test_a_dataset_that_lerobot_wrote_is_read(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (3,), "names": NAMES}
    made = LeRobotDataset.create(
        "test/test", 50, {"observation.state": vector, "action": vector}, root=tmp_path / "lerobot", robot_type="arm"
    )
    for first, length in ((0, 12), (12, 30)):
        for state, action in zip(walk()[first : first + length], walk(1)[first : first + length], strict=True):
            made.add_frame({"observation.state": state, "action": action, "task": "test"})
        made.save_episode()
    made.finalize()
    stats = compute_norm_stats(tmp_path / "lerobot", spec=SPEC)
    rows = all_chunks(walk()[:42], walk(1)[:42], [12, 30], horizon=8, delta_mask=(True, True, False)).reshape(-1, 3)
    np.testing.assert_allclose(stats.actions.mean, rows.mean(axis=0), rtol=1e-10)
    assert (stats.frames, stats.provenance.robot) == (42, "arm")


def test_a_vector_of_width_one_is_read_where_lerobot_stores_plain_numbers(tmp_path):
    values = walk()[:, :1]
    folder = write_dataset(tmp_path / "one", values, values, LENGTHS, names=["lift"])
    [path] = folder.glob("data/*/*.parquet")
    table = pq.read_table(path)
    plain = pa.table({**{n: pa.array(values[:, 0]) for n in ("observation.state", "action")}, "episode_index": table["episode_index"]})
    pq.write_table(plain, path)
    stats = compute_norm_stats(folder, spec=make_spec(["lift"], horizon=1, action_space="absolute"))
    np.testing.assert_array_equal(stats.state.max, values.max(axis=0))


def test_nan_is_refused_by_file_episode_frame_and_name(tmp_path):
    actions = walk(1)
    actions[45, 1] = np.nan
    folder = write_dataset(tmp_path / "nan", walk(), actions, LENGTHS, names=NAMES)
    with pytest.raises(DatasetError) as raised:
        compute_norm_stats(folder, spec=SPEC)
    assert raised.value.where == {"file": folder, "episode": 2, "dimension": "elbow", "frame": 4}


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"info\.json is missing"):
        compute_norm_stats(tmp_path, spec=SPEC)


@pytest.mark.parametrize(
    ("info", "error", "said"),
    [
        ({"total_frames": 300}, DatasetError, "200 frames in 1 files; expected 300 frames"),
        ({"total_episodes": 5}, DatasetError, "differ in episodes"),
        ({"codebase_version": "v9.0"}, DatasetError, "unknown LeRobot dataset version"),
        ({"total_frames": None}, DatasetError, "200 frames"),
        ({"features": {}}, DatasetError, "no such feature"),
    ],
)
def test_an_info_json_that_does_not_fit_the_data_is_refused(tmp_path, info, error, said):
    folder = write_dataset(tmp_path / "bad", walk(), walk(1), LENGTHS, names=NAMES, info=info)
    with pytest.raises(error, match=said):
        compute_norm_stats(folder, spec=SPEC)


def test_a_truncated_data_file_is_refused_by_name(dataset):
    [path] = dataset.glob("data/*/*.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match="not a whole parquet file") as raised:
        compute_norm_stats(dataset, spec=SPEC)
    assert raised.value.where["file"] == path


def test_rows_without_a_value_are_refused(dataset):
    [path] = dataset.glob("data/*/*.parquet")
    table = pq.read_table(path)
    states = table["observation.state"].to_pylist()
    states[3] = None
    holed = table.set_column(0, "observation.state", pa.array(states, type=pa.list_(pa.float32())))
    pq.write_table(holed, path)
    with pytest.raises(DatasetError, match="rows without a value"):
        compute_norm_stats(dataset, spec=SPEC)


@pytest.mark.parametrize("column", ["episode_index", "action"])
def test_a_column_that_is_missing_or_holds_no_numbers_is_refused(dataset, column):
    [path] = dataset.glob("data/*/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(column), path)
    with pytest.raises(DatasetError, match=f"cannot be read.*{column}"):
        compute_norm_stats(dataset, spec=SPEC)
    pq.write_table(table.drop_columns(column).append_column(column, pa.array(["x"] * len(table))), path)
    with pytest.raises(DatasetError, match=r"not of numbers alone|rows without a value"):
        compute_norm_stats(dataset, spec=SPEC)


def test_an_episode_whose_frames_are_not_together_is_refused(tmp_path):
    folder = write_dataset(tmp_path / "split", walk(), walk(1), LENGTHS, names=NAMES)
    [path] = folder.glob("data/*/*.parquet")
    episode = pa.array([0] * 40 + [1] + [2] * 60 + [0] * 99)
    pq.write_table(pa.table({"observation.state": vectors(walk()), "action": vectors(walk(1)), "episode_index": episode}), path)
    with pytest.raises(DatasetError, match="not together"):
        compute_norm_stats(folder, spec=SPEC)


@pytest.mark.parametrize(
    "shape",
    [
        lambda names: {"motors": names},
        lambda names: {"first": names[:1], "others": names[1:]},
        lambda names: {name: k for k, name in enumerate(names)},
        lambda names: [names],
        lambda names: None,
    ],
)
def test_names_are_found_in_every_shape_that_datasets_have_them_in(tmp_path, stats, shape):
    features = {key: {"dtype": "float32", "shape": [3], "names": shape(NAMES)} for key in ("observation.state", "action")}
    folder = write_dataset(tmp_path / "shaped", walk(), walk(1), LENGTHS, names=NAMES, info={"features": features})
    assert compute_norm_stats(folder, spec=SPEC).version == stats.version
    if shape(NAMES):
        with pytest.raises(SchemaMismatchError, match="found elbow; expected wrist"):
            compute_norm_stats(folder, spec=make_spec(["waist", "wrist", "gripper"]))


def test_other_names_or_widths_than_the_specs_are_refused_by_both_values(dataset):
    with pytest.raises(SchemaMismatchError, match="found elbow; expected wrist"):
        compute_norm_stats(dataset, spec=make_spec(["waist", "wrist", "gripper"]))
    with pytest.raises(SchemaMismatchError, match=r"found \[3\]; expected \[2\]"):
        compute_norm_stats(dataset, spec=make_spec(["waist", "elbow"]))


def test_the_file_has_openpis_shape_and_the_folder_the_versions_name(tmp_path, stats):
    path = write_norm_stats(tmp_path / "norm_stats", stats)
    assert path == tmp_path / "norm_stats" / stats.version / "norm_stats.json"
    document = json.loads(path.read_text())
    assert list(document) == ["norm_stats"]
    assert sorted(document["norm_stats"]) == ["actions", "state"]
    for numbers in document["norm_stats"].values():
        assert list(numbers) == ["mean", "std", "q01", "q99"]
        assert all(len(values) == 3 and all(isinstance(v, float) for v in values) for values in numbers.values())
    assert document["norm_stats"]["actions"]["q99"] == stats.actions.q99.tolist()


def test_what_is_written_is_read_back_whole(tmp_path, stats):
    path = write_norm_stats(tmp_path, stats)
    for place in (path, path.parent):
        again = read_norm_stats(place)
        assert again.provenance == stats.provenance
        for vector in ("state", "actions"):
            before, after = getattr(stats, vector), getattr(again, vector)
            assert after.count == before.count
            for name in ("mean", "std", "q01", "q99", "min", "max"):
                np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_the_meta_file_names_every_dimension_and_what_was_widened(tmp_path):
    states = walk()
    states[:, 1] = 3.1
    folder = write_dataset(tmp_path / "held", states, states, LENGTHS, names=NAMES)
    stats = compute_norm_stats(folder, spec=SPEC)
    path = write_norm_stats(tmp_path / "norm_stats", stats)
    meta = json.loads((path.parent / "norm_stats.meta.json").read_text())
    assert [(d["name"], d["unit"], d["kind"], d["delta"]) for d in meta["actions"]["dimensions"]] == [
        ("waist", "rad", "joint", True),
        ("elbow", "rad", "joint", True),
        ("gripper", "ratio", "gripper", False),
    ]
    assert (meta["frames"], meta["horizon"], meta["actions"]["count"]) == (200, 8, 1600)
    assert [(n["vector"], n["name"], n["widened"]) for n in meta["narrow"]] == [("state", "elbow", True), ("actions", "elbow", True)]
    assert meta["state"]["dimensions"][1]["measured"]["std"] == 0
    written = json.loads(path.read_text())["norm_stats"]["state"]
    assert written["std"][1] == 5e-4
    assert written["mean"][1] == pytest.approx(3.1)
    assert written["std"][0] == stats.state.std[0]
    assert [str(n).split(":")[0] for n in narrow_dimensions(stats)] == ["state elbow", "actions elbow"]


def test_writing_again_changes_no_file(tmp_path, stats):
    path = write_norm_stats(tmp_path, stats)
    before = path.stat().st_ino, path.stat().st_mtime_ns
    assert write_norm_stats(tmp_path, stats) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
    assert [p.name for p in tmp_path.glob("*tmp*")] == []


def test_a_damaged_version_is_written_anew(tmp_path, stats):
    path = write_norm_stats(tmp_path, stats)
    path.write_text('{"norm_stats"')
    assert write_norm_stats(tmp_path, stats) == path
    assert read_norm_stats(path).version == stats.version


def test_numbers_that_were_edited_are_refused(tmp_path, stats):
    path = write_norm_stats(tmp_path, stats)
    document = json.loads(path.read_text())
    document["norm_stats"]["state"]["std"][0] *= 2
    path.write_text(json.dumps(document))
    with pytest.raises(StatsMismatchError, match="are not those"):
        read_norm_stats(path)


def test_norm_stats_without_their_provenance_are_refused(tmp_path, stats):
    path = write_norm_stats(tmp_path, stats)
    (path.parent / "norm_stats.meta.json").unlink()
    with pytest.raises(StoreError, match=r"norm_stats\.meta\.json is missing"):
        read_norm_stats(path)


def test_the_version_changes_with_what_determines_the_numbers_and_with_nothing_else(stats):
    made = stats.provenance
    others = [
        replace(made, dataset_version="other"),
        replace(made, robot="other"),
        replace(made, horizon=9),
        replace(made, delta_mask=(True, False, False)),
        replace(made, state_dims=(replace(made.state_dims[0], name="base"), *made.state_dims[1:])),
        replace(made, action_dims=(replace(made.action_dims[0], unit="deg"), *made.action_dims[1:])),
    ]
    assert len({made.version, *(other.version for other in others)}) == 7
    limited = SPEC.model_copy(update={"state": [SPEC.state[0].model_copy(update={"limits": (-3.0, 3.0)}), *SPEC.state[1:]]})
    assert Provenance.of(limited, robot=made.robot, dataset_version=made.dataset_version).version == made.version


def test_the_version_of_a_dataset_written_here_is_the_one_its_writer_gave(dataset):
    (dataset / "meta" / "vla_ops.json").write_text('{"version": "0123456789abcdef"}')
    assert compute_norm_stats(dataset, spec=SPEC).provenance.dataset_version == "0123456789abcdef"


def test_stats_fit_the_robot_and_dataset_they_were_made_from(stats):
    check_fits(stats, SPEC, robot="test_arm", dataset_version=stats.provenance.dataset_version)
    check_fits(stats, SPEC)


@pytest.mark.parametrize(
    ("spec", "given", "said"),
    [
        (make_spec(NAMES, horizon=10), {}, "horizon 8; expected horizon 10"),
        (make_spec(NAMES, horizon=8, action_space="absolute"), {}, "action space"),
        (make_spec(["waist", "wrist", "gripper"], horizon=8), {}, "elbow.*expected.*wrist"),
        (make_spec(NAMES[:2], horizon=8), {}, "state width 3.*expected state width 2"),
        (make_spec(NAMES, horizon=8, unit="deg"), {}, "state units"),
        (SPEC, {"robot": "piper"}, "robot test_arm; expected robot piper"),
        (SPEC, {"dataset_version": "other"}, "dataset content-"),
    ],
)
def test_openpi_773_stats_that_do_not_fit_are_refused_with_both_values(stats, spec, given, said):
    with pytest.raises(StatsMismatchError, match=said):
        check_fits(stats, spec, **given)
