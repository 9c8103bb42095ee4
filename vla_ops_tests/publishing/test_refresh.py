"""Where what the YAML names goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.errors import PublishError
from vla_ops.publishing.refresh import publish_folder
from vla_ops.spec.publishing import PublishSpec
from vla_ops.training.run import Run


def test_a_folder_below_a_home_on_the_hub_is_no_place_for_publications(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", "hf://datasets/lab/home")
    with pytest.raises(PublishError, match=r"hf://datasets/lab/home.*publish: \{store: published\}.*publish: \{hub: OWNER/NAME\}"):
        publish_folder(tmp_path, small_run.folder / "7", PublishSpec(store="published"), say=lambda _: None)
