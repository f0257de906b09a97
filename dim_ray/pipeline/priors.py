"""Priors: one for each generator and recipe, built once and stored."""

from __future__ import annotations

import json
from dataclasses import replace

from torch import Tensor

from dim_ray.config import fingerprint, to_dict
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.generator.pair import build_pair
from dim_ray.core.training.checkpoint import dumps, loads, without_prefix
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Collective, Ports, Reporter, State
from dim_ray.errors import ArtifactError, DivergedError
from dim_ray.pipeline.checkpoints import StoredCheckpointer, shared_checkpointer
from dim_ray.pipeline.workspace import Workspace, dataset_card

__all__ = ["build_prior", "load_prior", "prior_fingerprint", "prior_is_settled"]

_PAIR_FILE = "pair.safetensors"


def prior_fingerprint(work: Workspace) -> str:
    """Return the prior's fingerprint, which includes the number of workers: each has its own random streams."""
    config = work.config
    return fingerprint("prior", work.dataset.digest, config.generator, config.prior, config.study.workers_per_trial)


def prior_is_settled(work: Workspace) -> bool:
    """Return whether the storage has the prior, or the study has recorded that its training diverged."""
    return work.artifacts.exists("priors", prior_fingerprint(work)) or _divergence(work) is not None


def build_prior(work: Workspace, reporter: Reporter, collective: Collective) -> None:
    """Train and store the prior if it isn't settled; each of several workers calls this.

    If the storage has one that differs only in having fewer epochs, training continues from there, to the same weights.

    Training that diverges is an outcome: it is recorded with the study, and `load_prior` raises it for every
    distillation from this prior.
    """
    name = prior_fingerprint(work)
    if collective.any(prior_is_settled(work)):  # the same answer on every worker
        return
    config = work.config
    pair = build_pair(
        config.generator, config.prior, work.dataset, learning_rate=config.prior.learning_rate, seed=config.prior.seed
    )
    saved = shared_checkpointer(work, name, collective)
    try:
        with saved:
            if collective.any(saved.load() is None):
                _continue_shorter(work, saved)
                collective.any(False)  # no worker reads the state before it is written
            stage = AdversarialTraining(pair, config.prior, work.dataset, config.health, collective)
            run_epochs(stage, work.dataset.train, Ports(reporter=reporter, checkpointer=saved, collective=collective))
    except DivergedError as error:
        if collective.rank == 0:
            outcome = {"error": str(error), "health": to_dict(config.health)}
            work.artifacts.write_bytes(_divergence_key(work), json.dumps(outcome).encode())
        return
    if collective.rank != 0:
        return
    card = {
        "generator": to_dict(config.generator),
        "dataset": dataset_card(work.dataset),
        "training": to_dict(config.prior),
        "num_workers": collective.num_workers,
        "wall_seconds": saved.seconds(),
    }
    work.artifacts.write("priors", name, {_PAIR_FILE: dumps(pair.state())}, card)
    saved.clear()


def load_prior(work: Workspace) -> dict[str, Tensor]:
    """Read the prior's weights and Adam's state, on the CPU; priors of older versions have only weights.

    Raises:
        ArtifactError: It has no state of Adam, and `matching.adam_state` asks for it.
        DivergedError: Its training diverged.
    """
    name = prior_fingerprint(work)
    divergence = None if work.artifacts.exists("priors", name) else _divergence(work)
    if divergence is not None:
        raise DivergedError(divergence)
    artifact = work.artifacts.read("priors", name)
    tensors, _ = loads(artifact.files[_PAIR_FILE], origin=f"{artifact.uri}/{_PAIR_FILE}")
    if work.config.matching.adam_state == "prior" and not without_prefix("generator_optimizer", tensors):
        raise ArtifactError(
            f"matching.adam_state is 'prior', but {artifact.uri} has no state of Adam: an older version of dim_ray "
            "stored it. Delete this folder and run the same command again, which trains the prior again; or set "
            "--matching.adam_state fresh."
        )
    return tensors


def _continue_shorter(work: Workspace, saved: StoredCheckpointer) -> None:
    """Save the state of the longest stored prior that is the beginning of this one, if there is any."""
    stored, steps_per_epoch = (
        set(work.artifacts.list("priors")),
        len(work.dataset.train) // work.config.prior.batch_size,
    )
    for epochs in range(work.config.prior.epochs - 1, 0, -1):
        shorter = replace(work, config=work.config.with_fields({"prior.epochs": epochs}))
        if (name := prior_fingerprint(shorter)) not in stored:
            continue
        tensors = load_prior(shorter)
        if without_prefix("generator_optimizer", tensors):
            saved.continue_from(
                State(tensors=tensors, meta={"steps": epochs * steps_per_epoch}),
                seconds=work.artifacts.read_card("priors", name)["wall_seconds"],
            )
            return


def _divergence(work: Workspace) -> str | None:
    """Return the recorded error of the prior's training, unless `health` has other limits now."""
    data = work.artifacts.read_bytes(_divergence_key(work))
    if data is None:
        return None
    outcome = json.loads(data)
    return str(outcome["error"]) if outcome["health"] == to_dict(work.config.health) else None


def _divergence_key(work: Workspace) -> str:
    return f"studies/{work.study}/diverged/{prior_fingerprint(work)}.json"
