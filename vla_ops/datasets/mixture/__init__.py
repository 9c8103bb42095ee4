"""Several robots' LeRobot v3.0 datasets as one, by name: numbers padded and masked, videos shared, weights for the trainers."""

from vla_ops.datasets.mixture.refresh import RefreshedMixture, refresh_mixture
from vla_ops.datasets.mixture.sampling import SAMPLING_FILE, Sampling, frame_weights, read_sampling

__all__ = ["SAMPLING_FILE", "RefreshedMixture", "Sampling", "frame_weights", "read_sampling", "refresh_mixture"]
