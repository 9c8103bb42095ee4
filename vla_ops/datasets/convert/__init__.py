"""Existing LeRobot datasets (v2.0, v2.1, v3.0) from one version of the format to another, by copying rows and packets."""

from vla_ops.datasets.convert.report import Report
from vla_ops.datasets.convert.run import Version, check_dataset, convert_dataset

__all__ = ["Report", "Version", "check_dataset", "convert_dataset"]
