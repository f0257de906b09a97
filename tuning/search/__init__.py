"""Optuna's part of a study: what may be chosen, who chooses, and what stops early."""
