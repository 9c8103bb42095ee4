"""A mixture's checkpoint is exported for one of its sources, and the export is that one's policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vla_ops.errors import CheckpointError, PolicyError, SpecError
from vla_ops.export.refresh import refresh_exports
from vla_ops.export.run import Exported, export
from vla_ops.export.source import Given, open_source
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.policy import Policy
from vla_ops.spec.training import ExportSpec
from vla_ops.training.run import Run
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, SOURCES, Lab
from vla_ops_tests.policies.small_run import seen
from vla_ops_tests.training.mixed_run import make_mixed_run
from vla_ops_tests.training.small_training import TRAINING
from vla_ops_tests.training.untrained import STEP


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_mixed_run(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = open_source(checkpoint(run), run.home, given=Given(asset_id="left"))
    return export(source, tmp_path_factory.mktemp("exported") / "out", layout="openpi", precision="float32")


def checkpoint(run: Run) -> str:
    return str(run.folder / str(STEP))


@pytest.mark.parametrize("asked", [None, "middle"])
def test_which_source_must_be_said(run: Run, asked: str | None) -> None:
    with pytest.raises(CheckpointError, match=r"not clear.*found left, right.*--asset-id left"):
        open_source(checkpoint(run), run.home, given=Given(asset_id=asked))


def test_it_is_compared_on_the_held_out_frames_of_its_source_and_takes_that_ones_norm_stats(exported: Exported) -> None:
    assert exported.report.passes
    assert {place.partition(" frame")[0] for place in exported.report.places} == {"episode_000001"}
    assert {joint.name for joint in exported.report.joints} == {"j1", "j2", "gripper", "j3"}
    assert [file.parent.name for file in (exported.folder / "assets").glob("*/norm_stats.json")] == ["left"]


def test_the_export_is_served_as_its_source_and_as_no_other(run: Run, exported: Exported) -> None:
    options = BackendOptions(sampling_steps=2)
    policy = Policy.load(exported.folder, options=options)
    assert (policy.backend.name, policy.metadata["robot"], policy.metadata["source"]) == ("torch", "left", "left")
    trained = Policy.load(checkpoint(run), source="left", options=options)
    images = dict(zip(policy.transforms.cameras.cameras, seen().images.values(), strict=True))
    there = type(seen())(seen().state, images, "pick")
    noise = policy.draw_noise(1)[0]
    np.testing.assert_allclose(policy.infer(there, noise=noise), trained.infer(there, noise=noise), atol=1e-4)
    with pytest.raises(PolicyError, match=r"export is of another source.*found right; expected left.*--asset-id"):
        Policy.load(exported.folder, source="right")


def test_the_asset_of_a_mixture_is_the_export_of_the_source_that_its_yaml_names(run: Run, tmp_path: Path) -> None:
    asked = ExportSpec(layouts=["openpi"], dtype="float32", source="left")
    (made,) = refresh_exports(run.home, "both", "small", asked, say=lambda _: None)
    assert made.folder.name == f"first-{STEP}-openpi-float32-left"
    assert json.loads((made.folder / "vla_ops.json").read_text())["asset_id"] == "left"
    (again,) = refresh_exports(run.home, "both", "small", asked, say=lambda _: None)
    assert (again.version, again.folder) == (made.version, made.folder)


@pytest.mark.parametrize(
    ("export_", "said"),
    [({}, "an export is a policy of one source: write `source: left`"), ({"source": "lefd"}, "there is none 'lefd'; did you mean 'left'")],
)
def test_a_yaml_that_does_not_name_a_source_is_refused(tmp_path: Path, export_: dict[str, str], said: str) -> None:
    lab = Lab(tmp_path)
    for name, arm in (("left", LEFT), ("right", RIGHT)):
        lab.write_yaml(name, arm.document)
    with pytest.raises(SpecError, match=rf":\d+: trainings\.small\.export: .*{said}"):
        lab.mix("both", *SOURCES, trainings={"small": TRAINING | {"export": export_}})


def test_a_robot_has_no_source_to_export(tmp_path: Path) -> None:
    from vla_ops.robot_file import load_robot

    lab = Lab(tmp_path)
    document = LEFT.document
    document["attributes"]["trainings"] = {"small": TRAINING | {"export": {"source": "left"}}}
    lab.write_yaml("left", document)
    with pytest.raises(SpecError, match=r"small\.export\.source is for mixtures"):
        load_robot(lab.robots / "left")
