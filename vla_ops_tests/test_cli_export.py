from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from vla_ops.cli_export import Export
from vla_ops.errors import CheckpointError


def test_arguments_are_those_of_the_command_line(tmp_path: Path) -> None:
    asked = tyro.cli(
        Export, args=["arm/small@best", str(tmp_path / "out"), "--layout", "openpi", "--dtype", "float32", "--lora-alpha", "7"]
    )
    assert (asked.source, asked.layout, asked.dtype, asked.lora_alpha) == ("arm/small@best", "openpi", "float32", 7.0)


@pytest.mark.parametrize(("layout", "said"), [("lerobot", "no checkpoint"), ("jax", "no PyTorch policy")])
def test_a_source_that_is_none_is_refused_and_nothing_is_written(layout: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=said):
        Export(str(tmp_path / "empty"), tmp_path / "out", layout=layout).run()  # type: ignore[arg-type]
    assert [inner.name for inner in tmp_path.iterdir()] == ["empty"]
