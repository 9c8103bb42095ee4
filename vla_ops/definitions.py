"""The Dagster code location: the robots in `robots/`."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load one component for each `robots/<name>/defs.yaml`."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
