"""The RLDS view of a v3.0 dataset: its files, every value in them, what it shares and what it survives; what TFDS reads of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vla_ops.datasets import rlds_plan
from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.datasets.rlds import Held, RldsSettings, disagreements
from vla_ops.errors import DatasetError
from vla_ops_tests.datasets.episode_folders import WIDTH, Kind, barcode, write_episodes
from vla_ops_tests.datasets.rlds_reading import (
    IMAGES,
    KIND,
    LENGTHS,
    SETTINGS,
    SPEC,
    bitwise_crc32c,
    masked,
    pixels,
    read_split,
    robot_spec,
    split_records,
    views,
)  # fmt: skip
from vla_ops_tests.isolated import run_isolated


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("episodes"), LENGTHS, kind=KIND, tasks=["pick", "place it über there"])


def inodes(view):
    """What stands in the shards' names before the number of shards -> inode."""
    return {path.name.rsplit("-of-")[0]: path.stat().st_ino for path in view.dataset.glob("*.tfrecord-*")}


@pytest.fixture(scope="module")
def made(episodes, tmp_path_factory):
    return views(tmp_path_factory.mktemp("views"), episodes, held_out=[episodes[1].id])


def test_the_folder_is_what_tfds_expects_of_a_dataset(made):
    v30, view = made
    assert (view.version, view.name, view.episodes, view.frames) == (v30.version, "arm", {"train": 4, "val": 1}, sum(LENGTHS))
    assert view.folder.name.startswith(v30.version)
    assert sorted(path.name for path in (view.folder / "arm/1.0.0").iterdir()) == [
        "arm-train.tfrecord-00000-of-00001",
        "arm-val.tfrecord-00000-of-00001",
        "dataset_info.json",
        "features.json",
    ]
    info = json.loads((view.dataset / "dataset_info.json").read_text())
    assert (info["name"], info["version"], info["fileFormat"]) == ("arm", "1.0.0", "tfrecord")
    for split in info["splits"]:
        records = split_records(view.dataset / f"arm-{split['name']}.tfrecord-00000-of-00001")
        assert split["shardLengths"] == [str(len(records))]
        assert split["numBytes"] == str(sum(len(payload) for _, _, payload, _ in records))


def test_the_features_are_named_and_typed_as_in_the_real_datasets_of_the_kind(made, recordings_dir):
    (path,) = (recordings_dir / "rlds").glob("bridge_dataset/*/features.json")
    ours, real = (json.loads(p.read_text())["featuresDict"]["features"] for p in (made[1].dataset / "features.json", path))
    assert ours["steps"]["pythonClassName"] == real["steps"]["pythonClassName"]
    steps, real_steps = (f["steps"]["sequence"]["feature"]["featuresDict"]["features"] for f in (ours, real))
    for name in ("is_first", "is_last", "is_terminal", "reward", "discount", "language_instruction"):
        assert {**steps[name], "description": ""} == {**real_steps[name], "description": ""}
    observation, real_observation = (s["observation"]["featuresDict"]["features"] for s in (steps, real_steps))
    assert set(observation) == {*IMAGES, "state"}
    image = real_observation["image_0"]["image"] | {"shape": {"dimensions": [str(WIDTH), str(WIDTH), "3"]}}
    assert observation["left_wrist_image"]["image"] == image
    assert steps["action"]["tensor"] == real_steps["action"]["tensor"] | {"shape": {"dimensions": ["3"]}}


def test_checksums_are_those_of_a_bitwise_crc32c(made):
    for path in made[1].dataset.glob("*.tfrecord-*"):
        for length, of_length, payload, of_payload in split_records(path):
            assert of_length == masked(bitwise_crc32c(length))
            assert of_payload == masked(bitwise_crc32c(payload))


def test_every_value_is_the_episodes_own(made, episodes):
    found = {split: read_split(made[1].dataset, split) for split in ("train", "val")}
    expected = {"train": [episodes[0], *episodes[2:]], "val": [episodes[1]]}
    for split, examples in found.items():
        for example, episode in zip(examples, expected[split], strict=True):
            length, table = episode.meta.length, pq.read_table(episode.frames)
            for name, column in (("steps/observation/state", "observation.state"), ("steps/action", "action")):
                np.testing.assert_array_equal(np.float32(example[name]).reshape(length, -1), np.stack(table[column].to_numpy()))
            assert example["steps/language_instruction"] == [episode.meta.task.encode()] * length
            assert example["steps/is_first"] == [1] + [0] * (length - 1)
            last = [0] * (length - 1) + [1]
            assert example["steps/is_last"] == example["steps/is_terminal"] == example["steps/reward"] == last
            assert example["steps/discount"] == [1.0] * length
            assert example["episode_metadata/file_path"] == [episode.meta.recording.encode()]
            assert example["episode_metadata/episode_id"] == [episode.meta.index]
            assert {name.removeprefix("steps/observation/") for name in example if "image" in name} == set(IMAGES)


def test_images_are_the_decoded_frames_resized_and_each_stands_at_its_step(made, episodes):
    examples = read_split(made[1].dataset, "val")
    for number, (key, camera) in enumerate(IMAGES.items()):
        jpegs = examples[0][f"steps/observation/{key}"]
        with av.open(str(episodes[1].video(camera))) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(jpegs) == len(frames) == LENGTHS[1]
        for k, (jpeg, frame) in enumerate(zip(jpegs, frames, strict=True)):
            wanted = np.asarray(Image.fromarray(frame).resize((WIDTH, WIDTH), Image.Resampling.LANCZOS))
            seen = pixels(jpeg)
            assert seen.shape == (WIDTH, WIDTH, 3)
            assert np.abs(seen.astype(int) - wanted).mean() < 2
            assert barcode(seen.transpose(2, 0, 1)) == LENGTHS[0] + k + 1000 * number


def test_pad_keeps_the_aspect_between_black_bars(episodes, tmp_path):
    _, view = views(tmp_path, episodes[:1], settings=RldsSettings(image_size=WIDTH, resize="pad"))
    seen = pixels(read_split(view.dataset, "train")[0]["steps/observation/image"][3])
    # 64 x 96 in 96 x 96.
    assert seen[:14].max() < 20
    assert seen[-14:].max() < 20
    assert barcode(seen[16:].transpose(2, 0, 1)) == 3


@pytest.mark.parametrize(
    ("cameras", "keys"),
    [
        (("cam_high", "cam_wrist"), {"image", "wrist_image"}),
        (("cam_right",), {"wrist_image"}),
        (("cam_high",), {"image"}),
        (("cam_left", "cam_right"), {"left_wrist_image", "right_wrist_image"}),
    ],
)
def test_a_single_wrist_has_no_side(cameras, keys, tmp_path):
    kind = Kind(cameras=cameras)
    _, view = views(tmp_path, write_episodes(tmp_path / "episodes", [4], kind=kind), spec=robot_spec(kind))
    (example,) = read_split(view.dataset, "train")
    assert {name.removeprefix("steps/observation/") for name in example if "image" in name} == keys


def test_the_same_episodes_give_the_same_bytes_however_many_workers(episodes, tmp_path):
    _, one = views(tmp_path / "one", episodes[:3], workers=1)
    _, many = views(tmp_path / "many", episodes[:3], workers=3)
    files = [path.relative_to(one.folder) for path in one.folder.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert [(one.folder / file).read_bytes() for file in files] == [(many.folder / file).read_bytes() for file in files]


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(rlds_plan, "SHARD_EPISODES", 2)


@pytest.mark.usefixtures("small_shards")
def test_what_is_added_leaves_whole_shards_as_they_are_and_encodes_only_what_is_new(episodes, tmp_path):
    _, first = views(tmp_path, episodes[:3])
    _, again = views(tmp_path, episodes[:3])
    _, longer = views(tmp_path, episodes)
    assert [view.created for view in (first, again, longer)] == [True, False, True]
    assert (first.shards, first.written, first.encoded) == (2, 2, 3)
    # The second shard gets the fourth episode beside the third, whose record is copied.
    assert (longer.shards, longer.written, longer.encoded) == (3, 2, 2)
    assert inodes(longer)["arm-train.tfrecord-00000"] == inodes(first)["arm-train.tfrecord-00000"]
    assert sorted(path.name.rsplit("-of-")[1] for path in longer.dataset.glob("*.tfrecord-*")) == ["00003"] * 3
    assert [example["episode_metadata/file_path"] for example in read_split(longer.dataset, "train")] == [
        [e.meta.recording.encode()] for e in episodes
    ]
    assert all(path.stat().st_mode & 0o222 == 0 for path in longer.dataset.glob("*.tfrecord-*"))


@pytest.mark.usefixtures("small_shards")
def test_after_a_removal_nothing_is_encoded_again(episodes, tmp_path):
    _, before = views(tmp_path, episodes)
    v30, view = views(tmp_path, [episodes[0], *episodes[2:]])
    assert (view.encoded, disagreements(view.folder, v30.folder)) == (0, [])
    old, new = read_split(before.dataset, "train"), read_split(view.dataset, "train")
    assert new == [old[0], *old[2:]]


def test_held_out_episodes_change_their_split_without_being_encoded_again(episodes, tmp_path):
    views(tmp_path, episodes[:3])
    v30, view = views(tmp_path, episodes[:3], held_out=[episodes[0].id, episodes[2].id])
    assert (view.episodes, view.encoded, disagreements(view.folder, v30.folder)) == ({"train": 1, "val": 2}, 0, [])
    assert [e["steps/is_first"] for e in read_split(view.dataset, "val")] == [[1] + [0] * (n - 1) for n in (LENGTHS[0], LENGTHS[2])]


def test_another_task_text_is_encoded_again(episodes, tmp_path):
    views(tmp_path, episodes[:2])
    renamed = [episodes[0], replace(episodes[1], meta=replace(episodes[1].meta, task="put it down"))]
    _, view = views(tmp_path, renamed)
    assert view.encoded == 1
    assert read_split(view.dataset, "train")[1]["steps/language_instruction"][0] == b"put it down"


def test_other_settings_or_roles_make_another_view_beside_it(episodes, tmp_path):
    _, first = views(tmp_path, episodes[:1])
    _, larger = views(tmp_path, episodes[:1], settings=RldsSettings(image_size=128))
    _, chunked = views(tmp_path, episodes[:1], settings=replace(SETTINGS, chunk_steps=8))
    swapped = {**SPEC.cameras, "cam_high": SPEC.cameras["cam_low"], "cam_low": SPEC.cameras["cam_high"]}
    _, other = views(tmp_path, episodes[:1], spec=SPEC.model_copy(update={"cameras": swapped}))
    assert len({view.folder for view in (first, larger, chunked, other)}) == 4
    assert (larger.encoded, chunked.encoded, other.encoded) == (1, 0, 1)
    assert inodes(chunked) == inodes(first)


def test_a_shard_that_was_deleted_is_written_again(episodes, tmp_path):
    v30, view = views(tmp_path, episodes[:2], held_out=[episodes[0].id])
    kept = inodes(view)["arm-train.tfrecord-00000"]
    (path,) = view.dataset.glob("*-val.*")
    path.unlink()
    with pytest.raises(DatasetError, match=f"a shard is missing.*{path}"):
        Held.by(view.folder)
    _, again = views(tmp_path, episodes[:2], held_out=[episodes[0].id])
    assert (again.folder, again.encoded, disagreements(again.folder, v30.folder)) == (view.folder, 1, [])
    assert inodes(again)["arm-train.tfrecord-00000"] == kept


def test_disagreements_are_read_from_the_shards_and_said(episodes, tmp_path):
    v30, view = views(tmp_path, episodes[:3], held_out=[episodes[0].id])
    steps = {"train": LENGTHS[1] + LENGTHS[2], "val": LENGTHS[0]}
    assert (Held.by(view.folder), disagreements(view.folder, v30.folder)) == (Held({"train": 2, "val": 1}, steps), [])
    (path,) = view.dataset.glob("*-train.*")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: 16 + len(split_records(path)[0][2])])
    assert disagreements(view.folder, v30.folder) == [
        "train episodes: 1 in RLDS, 2 in LeRobot v3.0",
        f"train steps: {LENGTHS[1]} in RLDS, {steps['train']} in LeRobot v3.0",
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
from vla_ops.datasets import rlds_plan
from vla_ops.datasets.rlds import write_rlds
from vla_ops.episodes.store import load_episode
from vla_ops_tests.datasets.rlds_reading import SETTINGS, SPEC
rlds_plan.SHARD_EPISODES = 2
kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 3 else None
root, v30, *folders = map(Path, sys.argv[1:])
write_rlds(root, v30, [load_episode(f) for f in folders], spec=SPEC, robot="Arm", settings=SETTINGS, progress=kill)
"""


@pytest.mark.usefixtures("small_shards")
def test_a_killed_run_leaves_no_view_and_its_whole_shards_are_used_by_the_next(episodes, tmp_path):
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", episodes, spec=SPEC, robot="Arm")
    arguments = [tmp_path / "rlds", v30.folder, *(episode.folder for episode in episodes)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list((tmp_path / "rlds").glob("*/vla_ops.json"))
    assert len(list((tmp_path / "rlds/unfinished").glob("*.tfrecord"))) == 1
    _, view = views(tmp_path, episodes)
    assert (view.shards, view.written, view.encoded, disagreements(view.folder, v30.folder)) == (3, 2, 3, [])
    assert list((tmp_path / "rlds").iterdir()) == [view.folder]


def test_an_interrupted_run_leaves_nothing_half_made(episodes, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        views(tmp_path, episodes[:2], progress=interrupt)
    assert [path for path in (tmp_path / "rlds").rglob("*") if path.is_file()] == []


def test_progress_counts_every_episode_whether_it_is_encoded_or_shared(episodes, tmp_path):
    counted = []
    views(tmp_path, episodes[:2], progress=lambda *pair: counted.append(pair))
    views(tmp_path, episodes[:3], progress=lambda *pair: counted.append(pair))
    assert counted == [(1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]


READER = """
import sys
import numpy as np, tensorflow as tf, tensorflow_datasets as tfds

folder, name, out = sys.argv[1:]
found = {}
builders = {"directory": tfds.builder_from_directory(f"{folder}/{name}/1.0.0"), "name": tfds.builder(name, data_dir=folder)}
assert str(builders["name"].version) == "1.0.0"
for split in ("train", "val"):
    found[f"{split}/episodes"] = builders["directory"].info.splits[split].num_examples
    dataset = builders["directory"].as_dataset(split=split, shuffle_files=False)
    for k, episode in enumerate(tfds.as_numpy(dataset)):
        steps = list(episode["steps"])
        rows = {key: [step[key] for step in steps] for key in steps[0] if key != "observation"}
        rows |= {key: [step["observation"][key] for step in steps] for key in steps[0]["observation"]}
        rows |= {key: [value] for key, value in episode["episode_metadata"].items()}
        found |= {f"{split}/{k}/{key}": np.stack(values) for key, values in rows.items()}
    # As OpenVLA-OFT reads it: by name, images still encoded.
    raw = builders["name"].as_dataset(split=split, shuffle_files=False, decoders={"steps": tfds.decode.SkipDecoding()})
    for k, episode in enumerate(tfds.as_numpy(raw)):
        observation = episode["steps"]["observation"]
        for key in observation:
            if "image" in key:
                for t, jpeg in enumerate(observation[key]):
                    found[f"{split}/{k}/jpeg/{key}/{t}"] = np.frombuffer(jpeg, np.uint8)
np.savez(out, **found)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # The environment may have to be fetched first.
def test_the_real_tensorflow_datasets_reads_every_value(made, episodes, tmp_path):
    view = made[1]
    packages, out = ["tensorflow-datasets==4.9.10", "tensorflow-cpu==2.21.0"], tmp_path / "found.npz"
    run_isolated(packages, READER, view.folder, view.name, out, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    with np.load(out) as archive:
        found = dict(archive)
    for split, held in (("train", [episodes[0], *episodes[2:]]), ("val", [episodes[1]])):
        assert found[f"{split}/episodes"] == len(held)
        for k, (episode, example) in enumerate(zip(held, read_split(view.dataset, split), strict=True)):
            compare(episode, example, {name.split("/", 2)[2]: value for name, value in found.items() if name.startswith(f"{split}/{k}/")})


def compare(episode, example, read):
    length, table = episode.meta.length, pq.read_table(episode.frames)
    for name, column in (("state", "observation.state"), ("action", "action")):
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], np.stack(table[column].to_numpy()))
    assert read["language_instruction"].tolist() == [episode.meta.task.encode()] * length
    flags = np.eye(length, dtype=bool)
    for name, row in (("is_first", 0), ("is_last", -1), ("is_terminal", -1)):
        assert read[name].dtype == bool
        np.testing.assert_array_equal(read[name], flags[row])
    np.testing.assert_array_equal(read["reward"], flags[-1].astype(np.float32))
    np.testing.assert_array_equal(read["discount"], np.ones(length, np.float32))
    assert (read["file_path"].tolist(), read["episode_id"].tolist()) == ([episode.meta.recording.encode()], [episode.meta.index])
    for key in IMAGES:
        jpegs = example[f"steps/observation/{key}"]
        assert [read[f"jpeg/{key}/{t}"].tobytes() for t in range(length)] == jpegs
        # The bytes are equal; TensorFlow decodes them with a faster, less exact transform than Pillow.
        decoded = np.stack([pixels(jpeg) for jpeg in jpegs])
        assert (read[key].dtype, read[key].shape) == (np.uint8, decoded.shape)
        assert np.abs(read[key].astype(int) - decoded).mean() < 0.5
        assert [barcode(image) for image in read[key].transpose(0, 3, 1, 2)] == [barcode(image) for image in decoded.transpose(0, 3, 1, 2)]
