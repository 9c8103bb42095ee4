"""`vla-ops export`: a checkpoint as a PyTorch policy, or a PyTorch policy as a checkpoint, gated either way."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_ops.cli_named import say
from vla_ops.errors import VlaOpsError


@dataclass(frozen=True)
class Export:
    """Convert a checkpoint for PyTorch, compare both models on held-out episodes, and keep the export only if they agree.

    Exit code: 0 exported, 2 refused or not the same model, with the first layer that disagrees.
    """

    source: tyro.conf.Positional[str]
    """ROBOT/TRAINING (its last checkpoint; @best or @STEP behind it for another), or the path or URL of a checkpoint in openpi's layout.
    With --layout jax, the folder of a LeRobot pi0 / pi0.5 policy or of an openpi-pytorch checkpoint."""
    out: tyro.conf.Positional[Path]
    """Folder of the export. It must not be there yet."""
    layout: Literal["lerobot", "openpi", "jax"] = "lerobot"
    """`lerobot` loads with PI0Policy / PI05Policy.from_pretrained, `openpi` in openpi's server; `jax` is the way back."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What is stored; in bfloat16, norms and what else the loader holds in float32 stays float32."""
    lora: Literal["merge", "adapter"] = "merge"
    """`merge` folds LoRA into its weights; `adapter` keeps it as a PEFT adapter, with the policy that it is added to in `base/`."""
    dataset: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the dataset of the run is now, if not where it was. Its held-out episodes are what the models are compared on."""
    assets: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the norm_stats.json that the checkpoint was trained with, where it has none itself."""
    asset_id: str | None = None
    """Which of the checkpoint's norm stats, where there are several and no run.json says it."""
    action_horizon: int = 50
    """Steps of a chunk, for a checkpoint without a run.json."""
    max_token_len: int = 0
    """Tokens of a prompt, for a checkpoint without a run.json. Default: 48 for pi0, 200 for pi0.5."""
    lora_alpha: float | None = None
    """LoRA's alpha, for a checkpoint without a run.json whose LoRA is none of openpi's variants."""
    steps: int = 10
    """Denoising steps of the sampled chunk that is compared."""
    at_once: int = 8
    """Observations compared at once; fewer need less memory."""

    def run(self) -> int:
        """Export, and say where it is and how far the models are apart."""
        folder = self._back() if self.layout == "jax" else self._forward()
        sys.stdout.write(f"{folder}\n")
        return 0

    def _forward(self) -> Path:
        from vla_ops.export.run import export
        from vla_ops.export.source import Given, open_source
        from vla_ops.home import home
        from vla_ops.homes.at_home import fetched, needs_of_run
        from vla_ops.homes.needs import training

        if self.layout == "jax":
            raise VlaOpsError("a checkpoint is exported as lerobot or openpi", found=self.layout)
        fetched(needs_of_run(self.source, partial(training, to_resume=False)), say)
        given = Given(self.action_horizon, self.max_token_len, self.lora_alpha, self.asset_id, self.assets)
        source = open_source(self.source, home(), given=given, say=say)
        more = {"dataset": self.dataset, "steps": self.steps, "at_once": self.at_once}
        return export(source, self.out, layout=self.layout, precision=self.dtype, lora=self.lora, say=say, **more).folder

    def _back(self) -> Path:
        from vla_ops.export.back import bring_back

        if self.lora == "adapter":
            raise VlaOpsError("an adapter is kept on the way to PyTorch, not back", todo="Leave --lora out.")
        return bring_back(Path(self.source), self.out, assets=self.assets, steps=self.steps, at_once=self.at_once, say=say).folder
