"""What Dagster knows of a robot's trainings before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.lineage.training_config import overrides_of
from vla_ops.robot_file import load_robot
from vla_ops.spec import TrainingSpec
from vla_ops.training.recipe import overridden
from vla_ops_tests.lineage.test_pipeline import HEAVY, graph_of
from vla_ops_tests.lineage.trainings import SMALL, add_trained_robot

LARGE: dict[str, Any] = {"model": {"preset": "pi0_lora"}, "norm_stats": {"from": "gs://somewhere/pi0_base/assets", "asset_id": "trossen"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_trained_robot(tmp_path_factory.mktemp("robots"), {"small": SMALL, "large": LARGE})


@pytest.fixture(scope="module")
def definitions(folder: Path) -> dg.Definitions:
    return robot_definitions(load_robot(folder))


def test_each_training_has_a_checkpoint_below_its_dataset_and_norm_stats(definitions: dg.Definitions) -> None:
    graph = graph_of(definitions)
    found = {key: asset for key, asset in graph["assets"].items() if key.endswith("/checkpoint")}
    common = {"group": "arm", "partitions": None}
    assert found == {
        "arm/small/checkpoint": {
            "from": ["arm/lerobot_v3", "arm/norm_stats"],
            "checks": ["beats_repeating_the_last_action", "loss_fell"],
            **common,
        },
        # Its norm stats are those of a base checkpoint, and nothing is validated.
        "arm/large/checkpoint": {"from": ["arm/lerobot_v3"], "checks": ["loss_fell"], **common},
    }
    assert graph["jobs"] == ["arm_all", "arm_ingest", "arm_look", "arm_train"]
    node = definitions.resolve_asset_graph().get(dg.AssetKey(["arm", "small", "checkpoint"]))
    assert node.kinds == {"jax"}
    assert node.pools == {"gpu"}
    assert "pi0_tiny from random parameters, 6 steps of 4" in str(node.description)


def test_a_robot_that_converts_does_not_wait_for_one_that_trains(definitions: dg.Definitions) -> None:
    jobs = {name: definitions.resolve_job_def(f"arm_{name}") for name in ("ingest", "all", "train")}
    trained = {
        name: [key.path[-2] for key in job.asset_layer.selected_asset_keys if key.path[-1] == "checkpoint"] for name, job in jobs.items()
    }
    assert {name: sorted(found) for name, found in trained.items()} == {
        "ingest": [],
        "all": ["large", "small"],
        "train": ["large", "small"],
    }
    assert [key.path[-1] for key in jobs["train"].asset_layer.selected_asset_keys] == ["checkpoint", "checkpoint"]
    tags = {name: dict(job.tags) for name, job in jobs.items()}
    assert tags["ingest"] == {"vla_ops/robot": "arm", "vla_ops/ingest": "arm"}
    assert tags["all"] == tags["train"] == {"vla_ops/robot": "arm", "vla_ops/train": "local"}
    assert all(job.executor_def.name == "in_process" for job in jobs.values())


def test_a_robot_without_trainings_is_as_it_was(tmp_path: Path) -> None:
    definitions = robot_definitions(load_robot(add_trained_robot(tmp_path, {})))
    assert graph_of(definitions)["jobs"] == ["arm_all", "arm_ingest", "arm_look"]
    assert definitions.resolve_job_def("arm_all").tags["vla_ops/ingest"] == "arm"


def test_the_limits_of_dagster_yaml_are_of_tags_that_there_are(definitions: dg.Definitions) -> None:
    settings = yaml.safe_load((Path(__file__).resolve().parents[2] / "dagster.yaml").read_text())
    limits = settings["concurrency"]["runs"]["tag_concurrency_limits"]
    tags = [definitions.resolve_job_def(name).tags for name in ("arm_ingest", "arm_train")]
    assert [[limit["key"] in those for those in tags] for limit in limits] == [[True, False], [False, True]]


def test_loading_it_imports_nothing_heavy(folder: Path) -> None:
    code = (
        f"import runpy, sys; defs = runpy.run_path({str(folder / 'defs.py')!r})['defs']; defs.get_repository_def()\n"
        f"print([m for m in {(*HEAVY, 'orbax', 'optax', 'matplotlib')!r} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"


# The launchpad


def checked(definitions: dg.Definitions, training: str, config: dict[str, Any]) -> dict[str, Any]:
    """The config as the op is given it."""
    job = definitions.resolve_job_def("arm_train")
    op = f"arm__{training}__checkpoint"
    return dict(dg.validate_run_config(job, {"ops": {op: {"config": config}}})["ops"][op]["config"])


# What each field could be given, and how the YAML of LARGE would have it: dotted keys.
GIVEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"steps": 10}, {"steps": 10}),
    ({"ema": None, "augmentation": False}, {"ema": None, "augmentation": False}),
    ({"schedule": {"peak": 1e-4, "kind": "rsqrt"}}, {"schedule.peak": 1e-4, "schedule.kind": "rsqrt"}),
    ({"schedule": {"peak": 1}}, {"schedule.peak": 1.0}),
    ({"freeze": "none"}, {"freeze": "none"}),
    ({"freeze": {"matching": ["PaliGemma/img/.*"]}}, {"freeze": {"matching": ["PaliGemma/img/.*"]}}),
    ({"model": {"paligemma": "gemma_2b", "lora_rank": 8}}, {"model.paligemma": "gemma_2b", "model.lora_rank": 8}),
    ({"model": {"cameras": ["base_0_rgb"]}}, {"model.cameras": ["base_0_rgb"]}),
    ({"validation": {}}, {"validation": {}}),
    ({"validation": {"every": 500, "early_stop": {"patience": 2}}}, {"validation": {"every": 500, "early_stop": {"patience": 2}}}),
    ({"norm_stats": {"from": "/elsewhere", "asset_id": "x"}}, {"norm_stats.from": "/elsewhere", "norm_stats.asset_id": "x"}),
    ({"keep": {"period": None}}, {"keep.period": None}),
]


@pytest.mark.parametrize(("config", "overrides"), GIVEN)
def test_what_is_given_in_the_launchpad_overrides_the_yaml(
    definitions: dg.Definitions, config: dict[str, Any], overrides: dict[str, Any]
) -> None:
    training = TrainingSpec.model_validate(LARGE)
    found = overrides_of(training, checked(definitions, "large", config))
    assert found == overrides
    changed = overridden(training, found)
    assert (changed == training) == (config == {})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"stepz": 1}, 'unexpected config entry "stepz"'),
        ({"steps": "many"}, "steps"),
        ({"schedule": {"kind": "linear"}}, "warmup_cosine"),
        ({"schedule": {"peek": 1.0}}, 'unexpected config entry "peek"'),
        ({"steps": None}, "steps"),
    ],
)
def test_the_launchpad_refuses_what_is_no_field_or_not_of_its_kind(definitions: dg.Definitions, config: dict[str, Any], said: str) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match=said):
        checked(definitions, "large", config)


def test_every_field_is_described_with_the_value_it_has(definitions: dg.Definitions) -> None:
    op = definitions.resolve_job_def("arm_train").get_node_named("arm__small__checkpoint").definition
    fields = op.config_schema.config_type.fields
    # What is exported is another asset's.
    assert set(fields) == {field.alias or name for name, field in TrainingSpec.model_fields.items()} - {"export"}
    assert not any(field.is_required for field in fields.values())
    assert fields["steps"].description == "Steps of the whole run. (In the YAML, or by default: 6)"
    assert "In the YAML, or by default: 0.003" in fields["schedule"].config_type.fields["peak"].description
