"""The search: Ray Tune with Optuna."""
