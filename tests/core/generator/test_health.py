"""Networks that are broken in known ways, and networks that work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import HealthConfig
from dim_ray.core.data.dataset import Dataset, signed
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.generator.health import HealthCheck
from dim_ray.core.generator.paper import PaperGenerator
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Ports, SilentReporter, SingleWorker
from dim_ray.errors import DivergedError
from tests.helpers.tiny import GENERATOR, PRIOR, MemoryCheckpointer, equal_states, make_dataset, make_pair

DATASET = make_dataset(per_class=4)
HINGE = replace(PRIOR, loss="hinge")


class Copying(PaperGenerator):
    """Generates real images; a small `spread` draws them to their class's mean."""

    def __init__(self, dataset: Dataset, spread: float = 1.0) -> None:
        super().__init__(GENERATOR, num_classes=3, num_channels=1, image_size=8)
        self._dataset = dataset
        self._spread = spread

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        assert not self.training, "statistics of BatchNorm would change"
        images = []
        for label in labels.unique():
            own = signed(self._dataset.train.images[self._dataset.train.labels == label][: (labels == label).sum()])
            images.append(own.mean(dim=0) + self._spread * (own - own.mean(dim=0)))
        return torch.cat(images)


class Scoring(nn.Module):
    """Scores real images `margin` above generated ones, symmetrically around 0."""

    def __init__(self, dataset: Dataset, margin: float) -> None:
        super().__init__()
        self._real = signed(dataset.train.images)
        self._margin = margin

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_real = (images[:, None] == self._real[None]).flatten(2).all(dim=2).any(dim=1)
        return torch.where(is_real, self._margin / 2, -self._margin / 2), images


def look(spread: float = 1.0, margin: float = 0.0, prior: Any = PRIOR, **limits: float) -> tuple[dict[str, float], str]:
    pair = replace(
        make_pair(DATASET), generator=Copying(DATASET, spread).train(), discriminator=Scoring(DATASET, margin).train()
    )
    result = HealthCheck(replace(HealthConfig(), **limits), prior, DATASET)(pair)
    assert pair.generator.training
    assert pair.discriminator.training
    return result


def test_images_as_different_as_real_ones_have_a_diversity_of_one() -> None:
    metrics, complaint = look()
    assert metrics["diversity"] == pytest.approx(1)
    assert complaint == ""


@pytest.mark.parametrize("spread", [0.5, 0.1])
def test_diversity_is_the_share_of_the_spread_that_is_left(spread: float) -> None:
    metrics, complaint = look(spread)
    assert metrics["diversity"] == pytest.approx(spread, rel=1e-4)
    assert complaint == ""


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_one_image_per_class_is_a_collapse(spread: float) -> None:
    _, complaint = look(spread)
    assert complaint.startswith("the generator collapsed to one image per class")
    assert "health.min_diversity is 0.02" in complaint
    assert look(spread, min_diversity=0.0)[1] == ""


def test_discriminator_that_has_nothing_left_to_learn_is_saturated() -> None:
    metrics, complaint = look(0.9, 2.0, HINGE)  # every score beyond the margin of 1
    assert metrics["source_loss"] == 0
    assert complaint.startswith("the discriminator is saturated and has nothing left to learn: its hinge loss is 0")
    metrics, complaint = look(0.9, 1.0, HINGE)
    assert (metrics["source_loss"], complaint) == (1.0, "")
    assert look(0.9, 2.0, HINGE, min_source_loss=0.0)[1] == ""


def test_scores_of_a_critic_that_lost_its_slope_are_an_explosion() -> None:
    diameter = 2 * 8.0  # of the cube of 64 pixels from -1 to 1
    metrics, complaint = look(0.9, 9 * diameter)
    assert (metrics["source_gap"], complaint) == (pytest.approx(9), "")
    metrics, complaint = look(0.9, 11 * diameter)
    assert metrics["source_gap"] == pytest.approx(11)
    assert complaint.startswith("the discriminator's scores exploded")


def test_class_of_a_single_image_is_ignored() -> None:
    chosen = torch.cat([(DATASET.train.labels == 0).nonzero()[:1], (DATASET.train.labels > 0).nonzero()]).squeeze(1)
    train = replace(DATASET.train, images=DATASET.train.images[chosen], labels=DATASET.train.labels[chosen])
    dataset = replace(DATASET, train=train)
    pair = replace(make_pair(dataset), generator=Copying(dataset), discriminator=Scoring(dataset, 0.0))
    metrics, complaint = HealthCheck(HealthConfig(), PRIOR, dataset)(pair)
    assert metrics["diversity"] == pytest.approx(1)
    assert complaint == ""


def test_untrained_networks_are_no_reason_to_complain() -> None:
    for prior in (PRIOR, HINGE):
        _, complaint = HealthCheck(HealthConfig(), prior, DATASET)(make_pair(DATASET))
        assert complaint == ""


def test_training_that_collapsed_ends_with_the_last_good_state() -> None:
    config = replace(PRIOR, epochs=6)
    healthy, pair = make_pair(DATASET), make_pair(DATASET)
    first = AdversarialTraining(healthy, replace(config, epochs=2), DATASET, HealthConfig(), SingleWorker())
    run_epochs(first, DATASET.train, Ports())

    class Breaking(SilentReporter):
        """Sets the generator's last layer to zero after the second epoch: its images are grey from then on."""

        def report(self, step: int, total: int, metrics: Any) -> None:
            if step == 2:
                nn.init.zeros_(pair.generator.to_image.weight)
                pair.generator_optimizer.param_groups[0]["lr"] = 0.0

    checkpointer = MemoryCheckpointer(every=10**9)
    stage = AdversarialTraining(pair, config, DATASET, HealthConfig(patience=3), SingleWorker())
    with pytest.raises(
        DivergedError,
        match=r"^prior diverged by step \d+ of \d+: the generator collapsed.*The last good state, of step",
    ):
        run_epochs(stage, DATASET.train, Ports(reporter=Breaking(), checkpointer=checkpointer))
    state = checkpointer.load()
    assert state is not None
    assert equal_states(state.tensors, healthy.state())
