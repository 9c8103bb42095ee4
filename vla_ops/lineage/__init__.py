"""The only folder that imports Dagster: a robot's YAML as assets, jobs, a sensor and a schedule."""
