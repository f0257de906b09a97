"""Rows that fit the tables, for tests to vary."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

_STUDENT = {
    "dataset": "digits",
    "ipc": 10,
    "study": "digits-small",
    "generator": "aaaa000011112222",
    "weights": "average",
    "data_fingerprint": "dddd000011112222",
    "architecture": "convnet3",
    "seed": 0,
    "accuracy": 0.9,
    "recipe_json": "{}",
    "budget_fingerprint": "bbbb000011112222",
    "wall_seconds": 2.5,
    "device": "cpu",
    "precision": "float32",
    "num_threads": 1,
    "host": "node-1",
    "code_version": "0.1.0",
    "torch_version": "2.15.0",
}


def evaluation(**changes: Any) -> dict[str, Any]:
    return {
        **_STUDENT,
        "protocol": "on_the_fly",
        "split": "test",
        "selection": "validation",
        "preset": "corrected",
        "quirks": "none",
        "labels": "hard",
        "labeller": None,
        "candidates": None,
        "latent_steps": None,
        "best_test_accuracy": 0.91,
        "validation_accuracy": 0.89,
        "images_drawn": 100_000,
        "distinct_images": 100_000,
        "optimiser_steps": 1000,
        "batch_size": 100,
        "epochs": 1000,
        "stored_bytes": 40_000,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "schedule": "constant",
        "augmentation": "color+crop",
        "final_loss": 0.1,
        **changes,
    }


def real_evaluation(**changes: Any) -> dict[str, Any]:
    return evaluation(generator=None, weights=None, protocol="real_fixed", study=None) | changes


def validation(**changes: Any) -> dict[str, Any]:
    return {**_STUDENT, "error": None, **changes}


def trial(**changes: Any) -> dict[str, Any]:
    return {
        "study": "digits-small",
        "number": 0,
        "state": "completed",
        "pool_size": 4,
        "capacity": 32,
        "matching_weight": 0.01,
        "adversarial_weight": 1.0,
        "params_json": "{}",
        "objective": 0.88,
        "objective_name": "validation_accuracy",
        "num_seeds": 1,
        "objective_std": None,
        "epoch": 6,
        "device_seconds": 12.0,
        "saved_device_seconds": 30.0,
        "reused_trial": None,
        "drawn_by": "sampler",
        "generator_bytes": 40_000,
        "alone_device_seconds": 42.0,
        "wall_seconds": 12.0,
        "generator": "aaaa000011112222",
        "config_fingerprint": "cccc000011112222",
        "config_json": "{}",
        "error": None,
        "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "ended_at": datetime(2026, 1, 2, 3, 4, 17, tzinfo=UTC),
        "host": "node-1",
        "code_version": "0.1.0",
    } | changes
