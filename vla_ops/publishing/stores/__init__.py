"""Where publications are kept."""
