"""Episodes -> a training format."""
