"""Dataset columns -> openpi's norm_stats.json: mean, std, q01 and q99 of the state and of the action chunk as the model sees it."""

from vla_ops.norm_stats.chunks import ChunkStats, VectorStats, chunk_norm_stats
from vla_ops.norm_stats.narrow import NarrowDimension
from vla_ops.norm_stats.stats import (
    STATS_FILE,
    NormStats,
    Provenance,
    check_fits,
    check_provenance,
    compute_norm_stats,
    narrow_dimensions,
    read_norm_stats,
    write_norm_stats,
    written_numbers,
)

__all__ = [
    "STATS_FILE",
    "ChunkStats",
    "NarrowDimension",
    "NormStats",
    "Provenance",
    "VectorStats",
    "check_fits",
    "check_provenance",
    "chunk_norm_stats",
    "compute_norm_stats",
    "narrow_dimensions",
    "read_norm_stats",
    "write_norm_stats",
    "written_numbers",
]
