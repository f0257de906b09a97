"""Fingerprints: what they are, and that they stay what they are."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from dim_ray.config import (
    Config,
    PoolConfig,
    PriorConfig,
    fingerprint,
)


def plain_fingerprint(*parts: Any) -> str:
    """What the fingerprint is, written down a second time for plain values."""
    text = json.dumps([1, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_fingerprint_is_the_hash_of_the_sorted_json_of_all_fields() -> None:
    pool = {
        "kind": "stored",
        "size": 8,
        "epochs": 50,
        "num_snapshots": 4,
        "snapshot_spacing": "linear",
        "online_steps": 16,
        "batch_size": 128,
        "learning_rate": 0.25,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "augmentation": "none",
        "precision": "auto",
        "seed": 0,
    }
    assert fingerprint(PoolConfig(learning_rate=0.25, augmentation="none")) == plain_fingerprint(pool)


def test_fingerprint_of_a_known_configuration_never_changes() -> None:
    """It addresses what people have stored. If this fails, stored teachers are trained again: raise the version."""
    config = PoolConfig(
        kind="stored",
        size=8,
        epochs=50,
        num_snapshots=4,
        snapshot_spacing="logarithmic",
        online_steps=16,
        batch_size=128,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        augmentation="none",
        precision="float32",
        seed=0,
    )
    assert fingerprint(config) == "e26407c6f8d3e90e"


def test_fields_that_were_added_change_no_fingerprint_at_their_default() -> None:
    """So priors and rows count that were stored before these fields existed."""
    prior = {
        "epochs": 150,
        "batch_size": 128,
        "learning_rate": 0.0001,
        "beta1": 0,
        "beta2": 0.9,
        "loss": "wasserstein",
        "augmentation": "none",
        "gradient_penalty_weight": None,
        "gradient_penalty_every": 1,
        "class_weight": 1,
        "discriminator_steps": 1,
        "precision": "auto",
        "seed": 0,
    }
    assert fingerprint(PriorConfig()) == plain_fingerprint(prior)
    assert fingerprint(PriorConfig(first="generator")) == plain_fingerprint({**prior, "first": "generator"})


@pytest.mark.parametrize("hash_seed", ["0", "1", "4321"])
def test_fingerprint_is_the_same_in_another_process(hash_seed: str) -> None:
    code = "from dim_ray.config import *; print(fingerprint(Config(), {'b': 1, 'a': [2.5, None, 'x']}))"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == fingerprint(Config(), {"a": [2.5, None, "x"], "b": 1})


def test_fingerprint_takes_whole_floats_and_integers_for_the_same() -> None:
    assert fingerprint(PriorConfig(class_weight=1)) == fingerprint(PriorConfig(class_weight=1.0))
    assert fingerprint([1, {"x": 2.0}]) == fingerprint([1.0, {"x": 2}])
    assert fingerprint(1.5) != fingerprint(1)


def test_fingerprint_takes_lists_and_tuples_for_the_same_and_keeps_their_order() -> None:
    assert fingerprint([1, 2]) == fingerprint((1, 2))
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_fingerprint_tells_parts_from_their_concatenation() -> None:
    assert len({fingerprint("ab"), fingerprint("a", "b"), fingerprint(["a", "b"]), fingerprint(["a"], "b")}) == 4


def test_fingerprint_refuses_what_has_no_stable_form() -> None:
    with pytest.raises(TypeError, match="sorted list"):
        fingerprint({"a", "b"})
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint(float("nan"))
