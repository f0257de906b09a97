"""Priors of the store: one for each capacity and recipe."""

from __future__ import annotations

from torch import Tensor

from dim_ray.config import fingerprint, to_dict
from dim_ray.core.adversarial import train_prior
from dim_ray.core.checkpoint import dumps, loads
from dim_ray.core.pair import build_pair
from dim_ray.core.ports import Collective, Reporter
from dim_ray.pipeline.workspace import Workspace, dataset_card, shared_checkpointer

__all__ = ["build_prior", "load_prior", "prior_exists", "prior_fingerprint"]

_PAIR_FILE = "pair.safetensors"


def prior_fingerprint(work: Workspace) -> str:
    """Returns the identity of the prior. Workers have random streams of their own, so their number is part of it."""
    config = work.config
    return fingerprint("prior", work.dataset.digest, config.generator, config.prior, config.study.workers_per_trial)


def prior_exists(work: Workspace) -> bool:
    """Whether the storage holds the prior."""
    return work.artifacts.exists("priors", prior_fingerprint(work))


def build_prior(work: Workspace, reporter: Reporter, collective: Collective) -> None:
    """Trains the prior and stores it, if the storage doesn't hold it; with several workers, each of them calls this."""
    identity = prior_fingerprint(work)
    if collective.any(work.artifacts.exists("priors", identity)):  # the same answer on every worker
        return
    config = work.config
    pair = build_pair(
        config.generator, config.prior, work.dataset, learning_rate=config.prior.learning_rate, seed=config.prior.seed
    )
    saved = shared_checkpointer(work, identity, collective)
    train_prior(
        pair,
        config.prior,
        work.dataset,
        health=config.health,
        reporter=reporter,
        checkpointer=saved,
        collective=collective,
    )
    if collective.rank != 0:
        return
    card = {
        "generator": to_dict(config.generator),
        "dataset": dataset_card(work.dataset),
        "training": to_dict(config.prior),
        "num_workers": collective.num_workers,
        "wall_seconds": saved.seconds(),
    }
    work.artifacts.write("priors", identity, {_PAIR_FILE: dumps(pair.weights())}, card)
    saved.clear()


def load_prior(work: Workspace) -> dict[str, Tensor]:
    """Reads the weights of the prior's networks, on the CPU."""
    artifact = work.artifacts.read("priors", prior_fingerprint(work))
    tensors, _ = loads(artifact.files[_PAIR_FILE], origin=f"{artifact.uri}/{_PAIR_FILE}")
    return tensors
