"""Adapters that cannot be: said before anything is converted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tyro
from pydantic import ValidationError

from vla_ops.cli_export import Export
from vla_ops.errors import CheckpointError, VlaOpsError
from vla_ops.export.run import export
from vla_ops.export.source import ExportSource, open_source
from vla_ops.spec import TrainingSpec
from vla_ops_tests.export.small_export import EXPERT, LORA, make_run
from vla_ops_tests.training.small_training import TRAINING


def source_of(root: Path, expert: dict[str, Any]) -> ExportSource:
    run = make_run(root / "run", expert=expert)
    return open_source(str(run.folder), run.home)


def test_a_checkpoint_without_lora_has_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no LoRA factors.*Leave --lora out"):
        export(source_of(tmp_path, EXPERT), tmp_path / "out", lora="adapter")
    assert not (tmp_path / "out").exists()


def test_openpis_layout_knows_no_adapter_and_without_peft_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path, LORA)
    with pytest.raises(CheckpointError, match=r"LeRobot's layout alone.*--layout lerobot"):
        export(source, tmp_path / "out", layout="openpi", lora="adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CheckpointError, match=r"PEFT, which is not installed.*uv sync --extra policies"):
        export(source, tmp_path / "out", lora="adapter")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "model", "said"),
    [
        ({"lora": "adapter", "layouts": ["lerobot", "openpi"]}, {"preset": "pi0_tiny_lora"}, "LeRobot's layout alone"),
        ({"lora": "adapter"}, {"preset": "pi0_tiny"}, "the model has no LoRA"),
        ({"lora": "merged"}, {"preset": "pi0_tiny_lora"}, "'merge' or 'adapter'"),
    ],
)
def test_a_yaml_that_asks_for_what_cannot_be_is_refused(asked: dict[str, Any], model: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainingSpec.model_validate(TRAINING | {"model": model, "export": asked})


def test_a_yaml_can_ask_for_an_adapter() -> None:
    training = TrainingSpec.model_validate(TRAINING | {"model": {"preset": "pi0_tiny_lora"}, "export": {"lora": "adapter"}})
    assert training.export is not None
    assert training.export.lora == "adapter"


def test_the_way_back_knows_no_adapter(tmp_path: Path) -> None:
    asked = tyro.cli(Export, args=["somewhere", str(tmp_path / "out"), "--layout", "jax", "--lora", "adapter"])
    with pytest.raises(VlaOpsError, match="not back"):
        asked.run()
