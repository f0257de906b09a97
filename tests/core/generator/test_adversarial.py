from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dim_ray.config import HealthConfig, Precision, PriorConfig
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.generator import adversarial
from dim_ray.core.generator.adversarial import (
    AdversarialTraining,
    discriminator_loss,
    discriminator_steps,
    generator_loss,
    generator_step,
)
from dim_ray.core.generator.adversarial_losses import gradient_penalty
from dim_ray.core.generator.networks import Discriminator
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.training.checkpoint import without_prefix
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Ports, SingleWorker
from dim_ray.core.training.random import stream
from tests.helpers import reference
from tests.helpers.tiny import (
    GENERATOR,
    NUM_STEPS,
    PRIOR,
    RecordingReporter,
    equal_states,
    make_dataset,
    make_pair,
    make_plain_pair,
)

AdversarialLoss = Literal["wasserstein", "hinge", "relativistic"]

DATASET = make_dataset()
LEARNING_RATE = 0.02


def train(pair: Pair, config: PriorConfig = PRIOR, dataset: Dataset = DATASET) -> RecordingReporter:
    reporter = RecordingReporter()
    stage = AdversarialTraining(pair, config, dataset, HealthConfig(), SingleWorker())
    run_epochs(stage, dataset.train, Ports(reporter=reporter))
    return reporter


def first_images(count: int = 8) -> tuple[Tensor, Tensor]:
    return DATASET.train.images[:count], DATASET.train.labels[:count]


def first_real(count: int) -> tuple[Tensor, Tensor]:
    images, labels = first_images(count)
    return reference.to_signed(images), labels


@pytest.mark.parametrize("decay", [0.0, 0.7])
@pytest.mark.parametrize(("discriminator_steps", "gradient_penalty_every"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_losses_and_weights_are_those_of_the_slow_reference(
    decay: float, discriminator_steps: int, gradient_penalty_every: int
) -> None:
    # As many images per step as there are, so that each step is an epoch and reported.
    dataset = make_dataset(per_class=2)
    config = replace(
        PRIOR,
        epochs=4,
        batch_size=len(dataset.train),
        gradient_penalty_weight=3.0,
        class_weight=0.7,
        discriminator_steps=discriminator_steps,
        gradient_penalty_every=gradient_penalty_every,
    )
    pair = make_plain_pair(dataset, ema_decay=decay, learning_rate=LEARNING_RATE)
    networks = copy.deepcopy((pair.generator.train(), pair.average, pair.discriminator))
    for network in networks:
        network.requires_grad_(True)
    expected = reference.prior_losses(networks, config, dataset, learning_rate=LEARNING_RATE, decay=decay)
    reporter = train(pair, config, dataset)
    for name in ("discriminator_loss", "generator_loss"):
        found = reporter.losses(name)
        # Up to eight steps of the discriminator amplify rounding, on some processors more than on others.
        assert found == pytest.approx([losses[name] for losses in expected], rel=1e-4, abs=1e-5)
        assert len(set(found)) == config.epochs
    for module, slow in zip((pair.generator, pair.average, pair.discriminator), networks, strict=True):
        torch.testing.assert_close(module.state_dict(), slow.state_dict(), atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("loss", "augmentation", "penalty"),
    [
        ("hinge", "none", None),
        ("hinge", "crop+cutout", None),
        ("hinge", "color|flip", 2.0),
        ("wasserstein", "crop", 1.0),
        ("relativistic", "none", None),
        ("relativistic", "crop", 2.0),
    ],
)
def test_other_losses_and_augmented_discriminator_are_those_of_the_slow_reference(
    loss: AdversarialLoss, augmentation: str, penalty: float | None
) -> None:
    config = replace(PRIOR, loss=loss, augmentation=augmentation, gradient_penalty_weight=penalty)
    pair = make_plain_pair(DATASET, learning_rate=LEARNING_RATE)
    networks = copy.deepcopy((pair.generator.train(), pair.average, pair.discriminator))
    expected = reference.prior_losses(networks, config, DATASET, learning_rate=LEARNING_RATE, decay=0.0)
    reporter = train(pair, config)
    for name in ("discriminator_loss", "generator_loss"):
        assert reporter.losses(name) == pytest.approx([losses[name] for losses in expected[2::3]], abs=1e-5)
    torch.testing.assert_close(pair.generator.state_dict(), networks[0].state_dict(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("source_head", ["plain", "projection"])
@pytest.mark.parametrize(
    "changes",
    [
        {"class_loss_on": "both"},
        {"first": "generator", "discriminator_steps": 2, "gradient_penalty_every": 3},
        {"uniform_labels": "discriminator"},
        {"uniform_labels": "discriminator", "class_loss_on": "both", "loss": "hinge", "augmentation": "crop"},
        {"first": "generator", "uniform_labels": "discriminator", "class_loss_on": "both"},  # as in DiM's code
    ],
    ids=str,
)
def test_what_the_reference_code_does_otherwise_is_that_of_the_slow_reference(
    changes: dict[str, Any], source_head: Literal["plain", "projection"]
) -> None:
    config = replace(PRIOR, class_weight=0.7, **changes)
    built = build_pair(replace(GENERATOR, source_head=source_head), config, DATASET, learning_rate=0.0, seed=1)
    pair = replace(
        built,
        generator_optimizer=torch.optim.SGD(built.generator.parameters(), LEARNING_RATE),
        discriminator_optimizer=torch.optim.SGD(built.discriminator.parameters(), LEARNING_RATE),
    )
    networks = copy.deepcopy((pair.generator.train(), pair.average, pair.discriminator))
    expected = reference.prior_losses(networks, config, DATASET, learning_rate=LEARNING_RATE, decay=0.0)
    reporter = train(pair, config)
    for name in ("discriminator_loss", "generator_loss"):
        assert reporter.losses(name) == pytest.approx([losses[name] for losses in expected[2::3]], rel=1e-5, abs=1e-5)
    for module, slow in ((pair.generator, networks[0]), (pair.discriminator, networks[2])):
        torch.testing.assert_close(module.state_dict(), slow.state_dict(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("loss", "is_needed"), [("wasserstein", True), ("hinge", False), ("relativistic", True)])
def test_hinge_loss_needs_no_second_derivative(
    loss: AdversarialLoss, is_needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_second = []
    grad = torch.autograd.grad

    def watch(*args: Any, **options: Any) -> Any:
        has_second.append(bool(options.get("create_graph")))
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", watch)
    train(make_pair(DATASET), replace(PRIOR, loss=loss))
    assert any(has_second) is is_needed


def test_mixed_precision_keeps_weights_and_the_penalty_itself_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    penalties = []

    def watch(*args: Any) -> Tensor:
        penalty = gradient_penalty(*args)
        penalties.append((args[-1], penalty.dtype))
        return penalty

    monkeypatch.setattr(adversarial, "gradient_penalty", watch)
    pair, exact = make_pair(DATASET, ema_decay=0.5), make_pair(DATASET, ema_decay=0.5)
    train(pair, replace(PRIOR, precision="bfloat16"))
    train(exact, PRIOR)
    assert set(penalties) == {("bfloat16", torch.float32), ("float32", torch.float32)}
    for found, expected in zip(pair.weights().values(), exact.weights().values(), strict=True):
        assert found.dtype == expected.dtype
        assert bool(found.isfinite().all())
    assert not equal_states(pair.weights(), exact.weights()), "bfloat16 was not used"


def test_several_steps_per_epoch_take_the_images_in_the_order_of_the_reference() -> None:
    pair = make_plain_pair(DATASET, learning_rate=LEARNING_RATE)
    networks = copy.deepcopy((pair.generator.train(), pair.average, pair.discriminator))
    expected = reference.prior_losses(networks, PRIOR, DATASET, learning_rate=LEARNING_RATE, decay=0.0)
    assert len(expected) == NUM_STEPS
    reporter = train(pair)
    for name in ("discriminator_loss", "generator_loss"):
        last_of_epochs = [losses[name] for losses in expected[2::3]]
        assert reporter.losses(name) == pytest.approx(last_of_epochs, abs=1e-5)


def test_built_networks_are_trained_by_adam_with_the_configured_numbers() -> None:
    prior = replace(PRIOR, beta1=0.3, beta2=0.8)
    pair = build_pair(GENERATOR, prior, DATASET, learning_rate=0.01, seed=1)
    pair.generator.train()
    generator, discriminator = copy.deepcopy((pair.generator, pair.discriminator))
    adam = reference.Adam(discriminator, 0.01, (0.3, 0.8))
    images, labels = first_images()
    real = reference.to_signed(images)
    for step in range(2):
        rng = stream(0, "test", step=step)
        loss = discriminator_steps(pair, prior, real, labels, stream(0, "test", step=step), SingleWorker(), step=step)
        [fake] = reference.generate(generator, [labels], [rng])
        expected = reference.discriminator_loss(discriminator, prior, real, fake.detach(), labels, rng)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        assert not loss.requires_grad
        adam.step(expected)
    # Only where gradients are not merely rounding errors: Adam makes steps of the same size out of all of them.
    found, slow = (network.get_parameter("features.0.weight") for network in (pair.discriminator, discriminator))
    torch.testing.assert_close(found, slow, atol=1e-4, rtol=0)
    for optimizer in (pair.generator_optimizer, pair.discriminator_optimizer):
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (0.01, (0.3, 0.8))


def test_gradient_penalty_of_a_linear_discriminator_is_known() -> None:
    class Linear(Discriminator):
        def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return (3.0 * images).sum(dim=(1, 2, 3)), images

    discriminator = Linear(GENERATOR, num_classes=2, num_channels=1, image_size=8)
    real, fake = torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8)
    labels = torch.zeros(5, dtype=torch.int64)
    penalty = gradient_penalty(discriminator, real, fake, labels, stream(0, "test"))
    assert penalty.item() == pytest.approx((3.0 * math.sqrt(64) - 1) ** 2)


def test_gradient_penalty_looks_between_real_and_generated_images() -> None:
    seen = []

    class Watching(Discriminator):
        def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(images.detach())
            return super().forward(images, labels)

    discriminator = Watching(GENERATOR, num_classes=2, num_channels=1, image_size=8)
    real, fake, labels = torch.ones(64, 1, 8, 8), torch.zeros(64, 1, 8, 8), torch.zeros(64, dtype=torch.int64)
    gradient_penalty(discriminator, real, fake, labels, stream(0, "test"))
    shares = seen[0].flatten(1)
    assert torch.equal(shares.amin(dim=1), shares.amax(dim=1))
    assert shares.amin() < 0.1
    assert shares.amax() > 0.9


def spectral_pair(dataset: Dataset = DATASET, **change: Any) -> Pair:
    config = replace(GENERATOR, discriminator_norm="spectral", source_head="projection", **change)
    return build_pair(config, PRIOR, dataset, learning_rate=1e-3, seed=1)


@pytest.mark.parametrize("make", [lambda: make_pair(DATASET), spectral_pair])
def test_generator_step_leaves_the_discriminator_as_it_was_and_ready_to_learn(make: Callable[[], Pair]) -> None:
    pair = make()
    before = copy.deepcopy(pair.discriminator.state_dict())
    loss, images = generator_loss(pair, PRIOR, torch.tensor([0, 1, 2]), stream(0, "test"), first_real(3))
    generator_step(pair, loss, SingleWorker())
    assert images.shape == (3, 1, 8, 8)
    assert equal_states(pair.discriminator.state_dict(), before)
    assert all(parameter.grad is None for parameter in pair.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in pair.discriminator.parameters())
    assert all(parameter.grad is not None for parameter in pair.generator.parameters())


def test_step_of_the_discriminator_takes_one_power_iteration_however_many_passes_it_has() -> None:
    pair = spectral_pair()
    expected = copy.deepcopy(pair.discriminator)
    expected.follow_spectrum()
    images, labels = first_images()
    config = replace(PRIOR, loss="hinge", gradient_penalty_weight=1.0)
    discriminator_steps(pair, config, reference.to_signed(images), labels, stream(0, "test"), SingleWorker(), step=0)
    found = dict(pair.discriminator.named_buffers())
    assert len(found) == 10
    assert equal_states(found, dict(expected.named_buffers()))


class _Operators(TorchDispatchMode):
    """Counts operators that return no view: on a GPU, about a kernel each."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = [value.alias_info for value in func._schema.returns]
        self.count += all(alias is None or alias.is_write for alias in returned)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("precision", "most"), [("float32", 360), ("bfloat16", 390)])
def test_hinge_step_has_few_operators(precision: Precision, most: int) -> None:
    """Hold what it took to get there: at 28 pixels, with PyTorch's spectral norm and autocast, 707 and 840."""
    dataset = make_dataset(size=28)
    pair = spectral_pair(dataset, refinements=(3, 1), ema_decay=0.999)
    config = replace(PRIOR, loss="hinge", precision=precision)
    stage = AdversarialTraining(pair, config, dataset, HealthConfig(), SingleWorker())
    indices = torch.arange(8)
    stage.step(0, indices)  # the first one sets up Adam's state
    with _Operators() as operators:
        stage.step(1, indices)
    assert operators.count <= most


def test_discriminator_has_a_multiple_of_the_generators_rate() -> None:
    pair = build_pair(GENERATOR, replace(PRIOR, discriminator_rate=0.5), DATASET, learning_rate=0.25, seed=1)
    rates = [own.param_groups[0]["lr"] for own in (pair.generator_optimizer, pair.discriminator_optimizer)]
    assert rates == [0.25, 0.125]


def test_discriminator_steps_leave_the_generators_weights_as_they_were() -> None:
    pair = make_pair(DATASET)
    before = copy.deepcopy(dict(pair.generator.named_parameters()))
    images, labels = first_images()
    discriminator_steps(pair, PRIOR, reference.to_signed(images), labels, stream(0, "test"), SingleWorker(), step=0)
    assert equal_states(dict(pair.generator.named_parameters()), before)
    assert all(parameter.grad is None for parameter in pair.generator.parameters())


def test_average_follows_the_weights_and_their_statistics() -> None:
    pair = make_pair(DATASET, ema_decay=0.9)
    expected = copy.deepcopy(pair.average)
    assert equal_states(pair.average.state_dict(), pair.generator.state_dict())
    assert not any(parameter.requires_grad for parameter in pair.average.parameters())
    for step in range(3):
        loss, _ = generator_loss(pair, PRIOR, torch.tensor([0, 1, 2]), stream(0, "test", step=step), first_real(3))
        generator_step(pair, loss, SingleWorker())
        reference.follow(expected, pair.generator, 0.9)
        torch.testing.assert_close(pair.average.state_dict(), expected.state_dict(), atol=1e-6, rtol=1e-5)
    assert not equal_states(pair.average.state_dict(), pair.generator.state_dict())


def test_without_a_decay_the_average_is_the_generator_itself() -> None:
    pair = make_pair(DATASET, ema_decay=0.0)
    assert pair.average is pair.generator


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weights_and_state_fit_into_fresh_networks(decay: float) -> None:
    pair, fresh = make_pair(DATASET, ema_decay=decay, seed=1), make_pair(DATASET, ema_decay=decay, seed=2)
    train(pair, replace(PRIOR, epochs=1))
    assert not equal_states(fresh.weights(), pair.weights())
    fresh.load_weights(pair.weights())
    assert equal_states(fresh.weights(), pair.weights())
    assert not equal_states(fresh.state(), pair.state())
    fresh.load_state(pair.state())
    assert equal_states(fresh.state(), pair.state())
    own = {tensor.data_ptr() for tensor in pair.state().values() if tensor.numel()}
    assert not own & {tensor.data_ptr() for tensor in fresh.state().values() if tensor.numel()}


@pytest.mark.parametrize(
    ("decay", "networks"), [(0.0, {"generator", "discriminator"}), (0.5, {"generator", "average", "discriminator"})]
)
def test_weights_hold_an_average_only_where_there_is_one(decay: float, networks: set[str]) -> None:
    pair = make_pair(DATASET, ema_decay=decay)
    train(pair, replace(PRIOR, epochs=1))
    weights = pair.weights()
    assert {name.split(".")[0] for name in weights} == networks
    for network in networks:
        assert equal_states(without_prefix(network, weights), getattr(pair, network).state_dict())


def test_training_neither_reads_nor_changes_the_global_random_state() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        pair = make_pair(DATASET)
        train(pair)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(pair.state())
    assert equal_states(results[0], results[1])


def test_every_seed_gives_other_weights() -> None:
    pairs = [make_pair(DATASET) for _ in range(2)]
    for seed, pair in enumerate(pairs):
        train(pair, replace(PRIOR, seed=seed))
    assert not equal_states(pairs[0].weights(), pairs[1].weights())


def test_lazy_penalty_is_only_added_at_its_steps_and_at_the_weight_of_all_of_them() -> None:
    images, labels = DATASET.train.images[:4], DATASET.train.labels[:4]
    lazy = replace(PRIOR, gradient_penalty_every=3)
    without, full = (
        replace(PRIOR, gradient_penalty_weight=0.0),
        replace(PRIOR, gradient_penalty_weight=3 * PRIOR.penalty_weight),
    )

    def loss_of(config: PriorConfig, number: int) -> Tensor:
        signed_images = reference.to_signed(images)
        return discriminator_loss(make_pair(DATASET), config, signed_images, labels, stream(0, "test"), number=number)

    for number in range(6):
        expected = loss_of(full if number % 3 == 0 else without, 0)
        torch.testing.assert_close(loss_of(lazy, number), expected)
    assert not torch.equal(loss_of(full, 0), loss_of(without, 0))
