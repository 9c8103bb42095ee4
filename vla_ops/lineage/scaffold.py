"""`dg scaffold defs vla_ops.RobotPipeline my_arm`: a YAML to start from that says what to fill in."""

from __future__ import annotations

from typing import Any

import dagster as dg

TEMPLATE = """\
# {name}: <hardware>. Expected: <topics and rates>.
# Look into a recording, and get these sections filled in, with: vla-ops inspect <file>
# Check this file with: dg check defs && vla-ops status {name}
type: vla_ops.RobotPipeline
attributes:
  recordings:
    uri: recordings                     # below this folder; or a path, s3://, gs://, hf://; {{{{ env.NAME }}}} is filled in
    pattern: "*.mcap"
    format: mcap                        # mcap | hdf5 | zarr
  timeline: {{rate_hz: 20, numbers: linear, max_skew_ms: 50, max_gap_ms: 200}}
  state:                                # order here is order in the vector
    - {{source: "/joint_states.position[0:6]", names: [j1, j2, j3, j4, j5, j6], unit: rad}}
    - {{source: "/joint_states.position[6:7]", names: [gripper], unit: m, kind: gripper}}
  action: {{from: next_state}}            # or a list like `state`, reading the leader arm's topics
  cameras:
    cam_high: {{source: /camera/color/image_raw/compressed, role: base}}
  task: {{from: recording}}               # the file's own text; or {{from: folder}}, or {{text: "pick up the red cube"}}
  dataset: {{repo_id: my-lab/{name}}}
"""


class RobotScaffolder(dg.Scaffolder):
    """Writes defs.yaml from the template."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write `defs.yaml` in the new robot's folder, and the folder its recordings go to."""
        name = request.target_path.name
        (request.target_path / "recordings").mkdir(exist_ok=True)
        (request.target_path / "defs.yaml").write_text(TEMPLATE.format(name=name), encoding="utf-8")
