"""The real openpi, in a process of its own, loads, resumes and continues what is written here, and the other way round.

Needs openpi's checkout and an environment for it: OPENPI_ROOT, OPENPI_PYTHON (see benchmarks/pi0.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.pi0_cases import Case, batch, load, nested, parameters
from benchmarks.pi0_ours import model_config, shapes_of
from benchmarks.pi0_process import Worker, openpi_worker
from vla_ops.backends.jax import train
from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params, read_train_state
from vla_ops.checkpoints.trees import TrainState
from vla_ops.models import ModelConfig, Observation, lora_freeze, merge
from vla_ops.spec.training import OptimizerSpec, ScheduleSpec
from vla_ops.training.mesh import make_mesh
from vla_ops.training.optimizer import learning_rates, make_optimizer
from vla_ops.training.state import abstract_state
from vla_ops.training.step import Step, make_step
from vla_ops_tests.training.arm import HORIZON, Arm
from vla_ops_tests.training.small_training import recipe_of

# Longer than the usual limit on a machine that is busy with something else.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("compiled_fast")]

STEPS, SEED = 3, 7
EXPERT = {"width": 32, "depth": 2, "mlp_dim": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
TOWER = {"width": 16, "depth": 2, "mlp_dim": 16, "num_heads": 2, "patch": 32}
VARIANTS = ["pi0", "pi05", "pi0_lora"]


class Both:
    """A variant with the batch and parameters that both sides are given: openpi's process, and our model and step."""

    def __init__(self, variant: str, folder: Path, worker: Worker) -> None:
        family, _, lora = variant.partition("_")
        # openpi keeps no average with LoRA.
        self.ema = None if lora else 0.99
        self.case = Case(
            "small", family, "float32", EXPERT, EXPERT, TOWER,
            vocab_size=259, action_horizon=HORIZON, max_token_len=16, batch_size=2, lora=(4, 8.0) if lora else None,
        )  # fmt: skip
        self.config: ModelConfig = model_config(self.case)
        self.folder, self.openpi = folder, worker
        files = {name: str(folder / f"{name}.{kind}") for name, kind in (("case", "json"), ("params", "npz"), ("batch", "npz"))}
        self.case.write(Path(files["case"]))
        np.savez(files["params"], allow_pickle=False, **parameters(shapes_of(self.case)))
        np.savez(files["batch"], allow_pickle=False, **batch(self.case, rows=2))
        self.inputs: dict[str, Any] = nested({name: leaf for name, leaf in load(Path(files["batch"])).items() if name != "noise"})
        worker.ask("open", **files, ema=self.ema)

    @property
    def model(self) -> dict[str, Any]:
        """The section `model` of a training."""
        lora = {} if self.case.lora is None else {"lora": {"rank": self.case.lora[0], "alpha": self.case.lora[1]}}
        names = ("family", "siglip", "vocab_size", "max_token_len", "dtype")
        sizes = {name: getattr(self.case, name) for name in names} | {"preset": f"{self.case.family}_tiny"}
        return sizes | {"paligemma": EXPERT | lora, "action_expert": EXPERT | lora}

    def machine(self) -> tuple[TrainState, Step]:
        """Shapes of the state and the step, with openpi's default optimiser."""
        freeze, optimizer = lora_freeze(self.config), make_optimizer(OptimizerSpec(), learning_rates(ScheduleSpec()))
        like = abstract_state(self.config, freeze, optimizer, make_mesh(), ema=self.ema is not None)
        return like, make_step(self.config, freeze, optimizer, ema=self.ema, like=like)

    def loss(self, params: Any) -> float:
        """The loss of the batch at the noise of SEED, nothing augmented."""
        observation, actions = Observation.from_dict(self.inputs), self.inputs["actions"]
        of_params = jax.jit(lambda params: merge(self.config, params).compute_loss(jax.random.key(SEED), observation, actions).mean())
        return float(of_params(params))


@pytest.fixture(scope="module", params=VARIANTS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    worker = openpi_worker(JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    if isinstance(worker, str):
        pytest.skip(worker)
    with worker:
        yield Both(request.param, tmp_path_factory.mktemp(request.param), worker)


@pytest.fixture(scope="module")
def trained(both: Both, arm: Arm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of our trainer."""
    freeze = "lora" if both.case.lora else "none"
    recipe = recipe_of(arm, model=both.model, steps=STEPS, batch_size=2, ema=both.ema, freeze=freeze, prompt={"truncate": True})
    return train(recipe, home=tmp_path_factory.mktemp("home"), run="run", say=lambda _: None).checkpoint


def test_openpi_loads_what_our_trainer_wrote_and_computes_the_same_loss(both: Both, trained: Path) -> None:
    params = read_params(open_checkpoint(trained))
    theirs = both.openpi.ask("loss_of", params=str(trained / "params"), seed=SEED)
    assert theirs["paths"] == sorted(params)
    assert theirs["loss"] == pytest.approx(both.loss(params), abs=1e-5)


def test_openpi_resumes_a_run_of_our_trainer_where_it_ended(both: Both, trained: Path) -> None:
    theirs = both.openpi.ask("resume", run=str(trained.parent), seed=SEED)
    like, step = both.machine()
    state, ours = step(jax.random.key(SEED), read_train_state(open_checkpoint(trained), like), both.inputs)
    assert theirs["at"] == STEPS == int(state.step) - 1
    for name in ("loss", "grad_norm", "param_norm"):
        assert theirs[name] == pytest.approx(float(ours[name]), rel=3e-5), name
    # What the optimiser's state makes of the parameters shows in the step after.
    _, after = step(jax.random.key(SEED), state, both.inputs)
    assert both.openpi.ask("step")["loss"] == pytest.approx(float(after["loss"]), rel=3e-5)


def test_what_openpi_wrote_is_loaded_and_resumed_here(both: Both, tmp_path: Path) -> None:
    both.openpi.ask("compile_step", seed=SEED)
    both.openpi.ask("step")
    both.openpi.ask("save", run=str(tmp_path / "run"), step=1)
    checkpoint = open_checkpoint(tmp_path / "run" / "1")
    params = read_params(checkpoint)
    theirs = both.openpi.ask("loss_of", params=str(checkpoint.params), seed=SEED)
    assert both.loss(params) == pytest.approx(theirs["loss"], abs=1e-5)
    like, step = both.machine()
    restored = read_train_state(checkpoint, like)
    assert int(restored.step) == 2
    _, ours = step(jax.random.key(SEED), restored, both.inputs)
    theirs = both.openpi.ask("step")
    for name in ("loss", "grad_norm", "param_norm"):
        assert float(ours[name]) == pytest.approx(theirs[name], rel=3e-5), name


def test_openpi_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENPI_ROOT", raising=False)
    assert "OPENPI_ROOT is not set" in str(openpi_worker())
    monkeypatch.setenv("OPENPI_ROOT", str(tmp_path))
    assert "no src/openpi" in str(openpi_worker())
