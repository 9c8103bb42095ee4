"""The sections of a robot's YAML, each a frozen model with a described field, checked where one section alone can tell.

`vla_ops.robot` puts them together, checks across them and derives everything positional.
"""

from vla_ops.spec.base import Kind, Level, Resample, Role, Strict, Unit, unknown_key
from vla_ops.spec.client import ClientSpec
from vla_ops.spec.conversion import ConversionSpec, LocalConversion, RayConversion
from vla_ops.spec.dataset import DatasetSpec, NormStatsSpec, ReconvertSpec, VideoSpec
from vla_ops.spec.model import ModelSpec
from vla_ops.spec.quality import ChecksSpec, QualitySpec, Threshold
from vla_ops.spec.recordings import CameraSpec, RecordingsSpec, TaskFrom, TimelineSpec
from vla_ops.spec.training import StatsFrom, Trainings, TrainingSpec
from vla_ops.spec.vectors import ROTATION_WIDTHS, Means, NextState, VectorPart

__all__ = [
    "ROTATION_WIDTHS", "CameraSpec", "ChecksSpec", "ClientSpec", "ConversionSpec", "DatasetSpec", "Kind", "Level", "LocalConversion",
    "Means", "ModelSpec", "NextState", "NormStatsSpec", "QualitySpec", "RayConversion", "ReconvertSpec", "RecordingsSpec", "Resample",
    "Role", "StatsFrom", "Strict", "TaskFrom", "Threshold", "TimelineSpec", "TrainingSpec", "Trainings", "Unit", "VectorPart", "VideoSpec",
    "unknown_key",
]  # fmt: skip
