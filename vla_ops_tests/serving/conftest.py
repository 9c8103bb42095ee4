"""The robot-side client is a package of its own, which the project does not depend on."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "packages" / "vla-ops-client" / "src"))
