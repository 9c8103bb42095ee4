"""From a recipe to checkpoints. Nothing is imported here: the processes that decode images are started from below it, without JAX."""
