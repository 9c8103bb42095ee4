"""`dg scaffold defs vla_ops.Mixture my_mixture`: a YAML to start from that says what to fill in."""

from __future__ import annotations

from typing import Any

import dagster as dg

from vla_ops.mixture_file import ROBOT, component_of

TEMPLATE = """\
# {name}: <which robots, and what for>. See docs/mixtures.md.
# Check this file with: dg check defs && vla-ops status {name}
type: vla_ops.Mixture
attributes:
  sources:                              # order here is the order of the episodes; without weights, every frame counts alike
{sources}
    # - robot: another
    #   weight: 1.0                     # for every source or for none
    #   tasks: ["fold the towel"]       # only these
    #   cameras: {{cam_top: cam_high}}    # the robot's name: the mixture's
    #   dims: {{left_j1: left_waist}}
  dataset: {{repo_id: my-lab/{name}}}
"""


class MixtureScaffolder(dg.Scaffolder):
    """Writes defs.yaml from the template."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write `defs.yaml` in the new mixture's folder, with the first of the robots beside it, so that it loads as it is."""
        folder = request.target_path
        robots = sorted(path.parent.name for path in folder.parent.glob("*/defs.yaml") if component_of(path.parent) == ROBOT)
        source = f"    - {{robot: {robots[0] if robots else 'my_robot'}}}"
        (folder / "defs.yaml").write_text(TEMPLATE.format(name=folder.name, sources=source), encoding="utf-8")
