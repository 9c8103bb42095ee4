"""Damaged checkpoints: what is said names the checkpoint and the arrays."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params, read_train_state
from vla_ops.errors import CheckpointError
from vla_ops_tests.checkpoints.small import SHAPES, abstract, saved, small_state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("whole"), small_state(ema=True))


@pytest.fixture
def step(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "1"))


def _data_file(step: Path, item: str = "params") -> Path:
    """The file that holds an item's arrays."""
    return max((file for file in (step / item).rglob("*") if file.parent.name == "d"), key=lambda file: file.stat().st_size)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def _forget_checksums(step: Path) -> None:
    shutil.rmtree(step / "vla_ops")


def test_a_flipped_byte_is_found_and_the_arrays_of_its_file_are_named(step: Path) -> None:
    file = _data_file(step)
    _flip(file)
    with pytest.raises(CheckpointError) as caught:
        read_params(open_checkpoint(step))
    said = str(caught.value)
    assert str(step) in said
    assert f"{file.name}: has other bytes than were written" in said
    named = dict(re.findall(r"params/(\S+)/value (\([\d, ]+\))", said))
    assert named
    assert all(str(SHAPES[path]) == shape for path, shape in named.items())
    assert "Take an earlier step" in said


def test_a_flipped_byte_in_the_train_state_does_not_keep_the_parameters_from_being_read(step: Path) -> None:
    _flip(_data_file(step, "train_state"))
    checkpoint = open_checkpoint(step)
    assert read_params(checkpoint).keys() == SHAPES.keys()
    with pytest.raises(CheckpointError, match=r"the checkpoint is damaged .*opt_state/1/0/"):
        read_train_state(checkpoint, abstract(small_state(ema=True)))


# Orbax ends its event loop when one read fails, while TensorStore's others still report to it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("checksums", [True, False])
def test_a_truncated_file_is_found_with_and_without_checksums(step: Path, *, checksums: bool) -> None:
    file = _data_file(step)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if not checksums:
        _forget_checksums(step)
    with pytest.raises(CheckpointError, match=r"the checkpoint is damaged .*array params/PaliGemma/llm/"):
        read_params(open_checkpoint(step))


# Orbax ends its event loop when one read fails, while TensorStore's others still report to it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("checksums", [True, False])
def test_a_missing_file_is_found_with_and_without_checksums(step: Path, *, checksums: bool) -> None:
    _data_file(step).unlink()
    if not checksums:
        _forget_checksums(step)
    with pytest.raises(CheckpointError, match=r"the checkpoint is damaged .*array params/"):
        read_params(open_checkpoint(step))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tree_metadata": {}}', '{"tree_metadata": {"a": {}}}'])
def test_damaged_metadata_is_an_error_of_the_checkpoint(step: Path, content: str) -> None:
    (step / "params" / "_METADATA").write_text(content)
    _forget_checksums(step)
    with pytest.raises(CheckpointError, match=str(step)):
        read_params(open_checkpoint(step))


def test_a_damaged_list_of_checksums_is_said(step: Path) -> None:
    (step / "vla_ops" / "files.json").write_text("{")
    with pytest.raises(CheckpointError, match="the list of checksums is damaged"):
        read_params(open_checkpoint(step))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_array_that_was_never_written_is_missing_and_not_zero(step: Path) -> None:
    metadata = step / "params" / "_METADATA"
    tree = json.loads(metadata.read_text())
    entry = json.loads(json.dumps(tree["tree_metadata"]["('params', 'action_in_proj', 'bias', 'value')"]))
    entry["key_metadata"][1]["key"] = "action_out_proj"
    tree["tree_metadata"]["('params', 'action_out_proj', 'bias', 'value')"] = entry
    metadata.write_text(json.dumps(tree))
    _forget_checksums(step)
    with pytest.raises(CheckpointError, match=r"array params/action_out_proj/bias/value"):
        read_params(open_checkpoint(step))


def test_parameters_alone_cannot_be_resumed_from(step: Path) -> None:
    shutil.rmtree(step / "train_state")
    with pytest.raises(CheckpointError, match=r"no train state to resume from .*Use it as `init:`"):
        read_train_state(open_checkpoint(step), abstract(small_state(ema=True)))


@pytest.mark.parametrize(("make", "found"), [(lambda path: path.mkdir(), "an empty folder"), (lambda path: None, "nothing")])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, make: Callable[[Path], None], found: str) -> None:
    make(tmp_path / "here")
    with pytest.raises(CheckpointError, match=rf"there is no checkpoint .*found {found}"):
        open_checkpoint(tmp_path / "here")
