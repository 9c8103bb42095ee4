"""What stands between robot units and the model: transforms and their inverses, camera slots, prompts, and the norm stats they use."""

from vla_ops.policies.mixed import MixtureTransforms, Transforms
from vla_ops.policies.policy_stats import PolicyStats, StatsFrom, check_stats, read_stats, take_stats, write_stats
from vla_ops.policies.stats_fit import StatsFit, stats_fit
from vla_ops.policies.tokenizer import BYTES, PALIGEMMA, ByteTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from vla_ops.policies.transforms import (
    ModelInputs,
    Observation,
    PolicyTransforms,
    TakesInputs,
    TrainingRow,
    check_model_takes,
    compose,
    normalisation_of,
    stack_inputs,
)

__all__ = [
    "BYTES", "PALIGEMMA", "ByteTokenizer", "MixtureTransforms", "ModelInputs", "Observation", "PolicyStats", "PolicyTransforms",
    "SentencePieceTokenizer", "StatsFit", "StatsFrom", "TakesInputs", "Tokenizer", "TrainingRow", "Transforms", "check_model_takes",
    "check_stats", "compose", "load_tokenizer", "normalisation_of", "read_stats", "stack_inputs", "stats_fit", "take_stats",
    "write_stats",
]  # fmt: skip
