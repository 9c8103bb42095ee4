"""An export behind `Policy`: the contract of backends, and the actions of the checkpoint that it was made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_ops.errors import CheckpointError, ParityError, PolicyError, StatsMismatchError
from vla_ops.export.refresh import refresh_exports
from vla_ops.export.torch_folder import without_lora
from vla_ops.models import ModelConfig
from vla_ops.policies.backend import BackendOptions, open_backend
from vla_ops.policies.policy import Policy
from vla_ops.policies.real_time import Overlap, RealTime, prefix_weights
from vla_ops.policies.setup import make_setup
from vla_ops.spec.training import ExportSpec
from vla_ops.training.run import Run
from vla_ops_tests.export.small_export import LORA, make_run
from vla_ops_tests.policies.backend_contract import BackendContract
from vla_ops_tests.policies.small_run import seen

# Every test here loads LeRobot, which takes its time.
pytestmark = pytest.mark.slow

BOTH = ExportSpec(layouts=["lerobot", "openpi"], dtype="float32")


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("torch"), family=request.param, expert=LORA)


@pytest.fixture(scope="module")
def exports(run: Run) -> dict[str, Path]:
    """Layout -> folder."""
    return {made.layout: made.folder for made in refresh_exports(run.home, "arm", "small", BOTH, say=lambda _: None)}


@pytest.fixture(scope="module")
def config(run: Run) -> ModelConfig:
    return without_lora(run.recipe.model)


@pytest.fixture(scope="module")
def backend(exports: dict[str, Path]) -> object:
    return open_backend("torch", make_setup(exports["openpi"]), BackendOptions(batch_sizes=(1, 2), sampling_steps=3, real_time=RealTime()))


class TestTorchBackend(BackendContract):
    """See BackendContract."""


@pytest.mark.parametrize("layout", ["lerobot", "openpi"])
def test_an_export_acts_as_the_checkpoint_that_it_was_made_of(run: Run, exports: dict[str, Path], layout: str) -> None:
    trained, exported = Policy.load(run.folder / "7"), Policy.load(exports[layout])
    assert (trained.backend.name, exported.backend.name) == ("jax", "torch")
    assert exported.transforms.fingerprint == trained.transforms.fingerprint
    for seed in range(2):
        np.testing.assert_allclose(exported.infer(seen(seed)), trained.infer(seen(seed)), atol=1e-4)
    told = exported.metadata
    assert {key: told[key] for key in ("robot", "actions", "norm_stats")} == {
        key: trained.metadata[key] for key in ("robot", "actions", "norm_stats")
    }


@pytest.mark.parametrize("through_model", [True, False], ids=["as the paper", "as LeRobot"])
def test_a_chunk_goes_on_from_another_as_the_checkpoints_does(run: Run, exports: dict[str, Path], *, through_model: bool) -> None:
    options = BackendOptions(real_time=RealTime(through_model=through_model))
    trained, exported = (Policy.load(folder, options=options) for folder in (run.folder / "7", exports["lerobot"]))
    before = trained.infer(seen(0))
    overlap = Overlap(before[2:], 2)
    theirs, ours = (policy.infer(seen(1), overlap=overlap, noise=trained.draw_noise(1)[0] * 0 + 0.3) for policy in (exported, trained))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    free = trained.infer(seen(1), noise=trained.draw_noise(1)[0] * 0 + 0.3)
    assert np.abs(free - ours).max() > 0.01


@pytest.mark.parametrize(("delay", "length"), [(0, 0), (0, 6), (2, 5), (3, 3), (1, 2), (6, 6)])
def test_the_weights_of_an_overlap_are_lerobots(delay: int, length: int) -> None:
    from lerobot.configs import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.policies.rtc.modeling_rtc import RTCProcessor

    theirs = RTCProcessor(RTCConfig(prefix_attention_schedule=RTCAttentionSchedule.EXP)).get_prefix_weights(delay, length, 6)
    np.testing.assert_allclose(prefix_weights(delay, length, 6), theirs.numpy(), atol=1e-6)


def test_in_bfloat16_it_acts_nearly_so(run: Run, exports: dict[str, Path]) -> None:
    trained = Policy.load(run.folder / "7")
    halved = Policy.load(exports["openpi"], options=BackendOptions(dtype="bfloat16"))
    difference = np.abs(halved.infer(seen()) - trained.infer(seen())).max()
    assert 0 < difference < 0.2


def test_a_damaged_or_foreign_export_is_refused(exports: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exports["openpi"], tmp_path / "copy"))
    told = json.loads((folder / "vla_ops.json").read_text())
    (folder / "vla_ops.json").write_text(json.dumps(told | {"stats_fingerprint": "0" * 16}))
    with pytest.raises(StatsMismatchError, match="not those it was trained with"):
        Policy.load(folder)
    (folder / "vla_ops.json").write_text(json.dumps(told | {"recipe": None}))
    with pytest.raises(PolicyError, match="of no run of this project"):
        Policy.load(folder)
    (folder / "vla_ops.json").write_text(json.dumps(told))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="the weights cannot be read"):
        Policy.load(folder)
    (folder / "model.safetensors").write_bytes(weights)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["action_in_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ParityError, match=r"not the tensors of the model.*action_in_proj\.weight"):
        Policy.load(folder)
