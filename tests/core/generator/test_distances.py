from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import ARCHITECTURES, MatchingConfig, MatchingKind
from dim_ray.core.generator.distances import DISTANCES, ImagePairs
from dim_ray.core.networks import build_classifier
from dim_ray.core.teachers.pool import DrawnTeacher
from dim_ray.core.training.random import stream
from dim_ray.errors import ConfigError
from tests.helpers import reference

NUM_CLASSES = 4
LABELS = torch.tensor([1, 0, 1, 3, 1, 3, 1])  # class 0 has one image, class 2 none
SIZE = 8
KINDS = list(DISTANCES)
OF_LOGITS = [kind for kind in KINDS if kind.startswith("logit")]
OF_MEANS: list[MatchingKind] = ["logit_means", "logit_moments", "features"]


def teacher(architecture: str = "convnet3_w4") -> DrawnTeacher:
    return drawn(
        build_classifier(architecture, num_channels=1, num_classes=NUM_CLASSES, image_size=SIZE, rng=stream(3))
    )


def drawn(network: nn.Module) -> DrawnTeacher:
    return DrawnTeacher(network=network.eval().requires_grad_(False), tensors=network.state_dict())


def images(seed: int, count: int = len(LABELS)) -> Tensor:
    return torch.randn(count, 1, SIZE, SIZE, generator=stream(seed))


def measure(
    kind: MatchingKind,
    real: Tensor,
    generated: Tensor,
    labels: Tensor = LABELS,
    used: DrawnTeacher | None = None,
    **options: Any,
) -> Tensor:
    pairs = ImagePairs(real=real, generated=generated, labels=labels, num_classes=NUM_CLASSES)
    return DISTANCES[kind](used or teacher(), pairs, MatchingConfig(kind=kind, **options))


def test_every_kind_that_matches_anything_has_a_distance() -> None:
    assert {*DISTANCES, "none"} == set(get_args(MatchingKind))


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0, "standardised": True}, {"unbiased": True}], ids=str)
@pytest.mark.parametrize("architecture", ["convnet3_w4", "resnet10_w4"])
@pytest.mark.parametrize("kind", KINDS)
def test_distance_is_that_of_the_slow_reference(kind: MatchingKind, architecture: str, options: dict[str, Any]) -> None:
    used = teacher(architecture)
    real, generated = images(0), images(1).requires_grad_()
    found = measure(kind, real, generated, used=used, **options)
    expected = reference.distance(MatchingConfig(kind=kind, **options), used.network, real, generated, LABELS)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-7)
    (gradient,), (slow,) = (torch.autograd.grad(distance, generated) for distance in (found, expected))
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, slow, rtol=1e-3, atol=1e-4 * slow.abs().max().item())


@pytest.mark.parametrize("architecture", ["convnet3_w4", "resnet10_w4"])
@pytest.mark.parametrize("kind", KINDS)
def test_distance_is_zero_only_between_the_same_images(kind: MatchingKind, architecture: str) -> None:
    used = teacher(architecture)
    assert measure(kind, images(0), images(0).requires_grad_(), used=used).item() == pytest.approx(0, abs=1e-10)
    assert measure(kind, images(0), images(1), used=used).item() > 1e-6


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_architecture_can_be_matched_in_every_way(family: str) -> None:
    rng, architecture = stream(0), family if family == "lenet" else f"{family}_w12"
    network = build_classifier(architecture, num_channels=3, num_classes=NUM_CLASSES, image_size=16, rng=rng)
    for parameter in network.parameters():  # a ViT's last layer begins with zeros, and all of its logits with it
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=rng)
    real, generated = (torch.randn(3, 3, 16, 16, generator=rng) for _ in range(2))
    generated.requires_grad_()
    for kind in KINDS:
        distance = measure(kind, real, generated, torch.tensor([0, 2, 2]), drawn(network))
        (gradient,) = torch.autograd.grad(distance, generated)
        assert distance.item() > 0, kind
        assert gradient.isfinite().all(), kind
        assert gradient.abs().sum() > 0, kind


def permuted_within_classes(generated: Tensor, seed: int) -> Tensor:
    order = torch.arange(len(LABELS))
    for label in LABELS.unique():
        (own,) = (label == LABELS).nonzero(as_tuple=True)
        order[own] = own[torch.randperm(len(own), generator=stream(seed))]
    assert torch.equal(LABELS[order], LABELS)
    return generated[order]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_only_logits_of_pairs_see_which_image_of_a_class_is_which(kind: MatchingKind, seed: int) -> None:
    used, real, generated = teacher(), images(0), images(1)
    before = measure(kind, real, generated, used=used)
    after = measure(kind, real, permuted_within_classes(generated, seed), used=used)
    is_same = after.item() == pytest.approx(before.item(), rel=1e-5)
    assert is_same is (kind != "logits")


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_only_flows_through_the_generated_half(kind: MatchingKind) -> None:
    used = teacher()
    real, generated = images(0).requires_grad_(), images(1).requires_grad_()
    measure(kind, real, generated, used=used).backward()
    assert real.grad is None
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in used.tensors.values())
    assert not any(p.requires_grad or p.grad is not None for p in used.network.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_one_image_has_a_finite_distance(kind: MatchingKind) -> None:
    generated = images(1, 1).requires_grad_()
    measure(kind, images(0, 1), generated, labels=torch.tensor([2])).backward()
    assert generated.grad is not None
    assert generated.grad.isfinite().all()
    assert generated.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_teachers_in_bfloat16_give_nearly_the_same_distance_in_float32(kind: MatchingKind) -> None:
    full = teacher()
    half = replace(full, precision="bfloat16")
    generated = images(1).requires_grad_()
    found = measure(kind, images(0), generated, used=half)
    exact = measure(kind, images(0), images(1), used=full)
    assert found.dtype == torch.float32
    assert found.item() != exact.item()
    assert found.item() == pytest.approx(exact.item(), rel=0.05)
    found.backward()
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------------ logits


class Given(nn.Module):
    """Gives what it is given for logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def between(kind: MatchingKind, real: list[list[float]], generated: list[list[float]], **options: Any) -> float:
    labels = torch.zeros(len(real), dtype=torch.int64)
    return measure(kind, torch.tensor(real), torch.tensor(generated), labels, drawn(Given()), **options).item()


def test_distance_of_logits_is_the_mean_square_of_the_difference_of_log_shares() -> None:
    logits, other = [[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]], [[11.0, 12.0, 13.0], [1.0, 0.0, 5.0]]
    difference = reference.log_softmax(torch.tensor(logits)) - reference.log_softmax(torch.tensor(other))
    assert difference[0].abs().max() < 1e-5, "a constant added to all logits is no difference"
    assert between("logits", logits, other) == pytest.approx((difference**2).sum().item() / 6)


@pytest.mark.parametrize("kind", OF_LOGITS)
def test_temperature_divides_the_logits(kind: MatchingKind) -> None:
    logits, other = [[1.0, 2.0, 4.0], [0.0, 0.0, 5.0]], [[2.0, 2.0, 1.0], [1.0, 0.0, 5.0]]
    doubled = [[2 * value for value in row] for row in logits], [[2 * value for value in row] for row in other]
    assert between(kind, *doubled, temperature=2.0) == pytest.approx(between(kind, logits, other))
    assert between(kind, *doubled) != pytest.approx(between(kind, logits, other), rel=0.1)


@pytest.mark.parametrize("kind", OF_LOGITS)
def test_standardised_logits_forget_their_mean_and_size(kind: MatchingKind) -> None:
    logits, other = [[1.0, 2.0, 4.0], [0.0, 0.0, 5.0]], [[-7.0, 13.0, 53.0], [3.0, 3.0, 3.5]]
    assert between(kind, logits, other, standardised=True) == pytest.approx(0, abs=1e-8)
    assert between(kind, logits, other) > 1
    assert between(kind, [[1.0, 2.0, 4.0]], [[4.0, 2.0, 1.0]], standardised=True) > 0.1


def test_equal_logits_stay_finite_when_they_are_standardised() -> None:
    generated = torch.zeros(1, 3).requires_grad_()
    measure(
        "logits", torch.tensor([[1.0, 2.0, 4.0]]), generated, LABELS[1:2], drawn(Given()), standardised=True
    ).backward()
    assert generated.grad is not None
    assert generated.grad.isfinite().all()


def test_images_that_are_all_the_average_have_its_means_but_not_its_variances() -> None:
    spread, average = [[0.0, 1.0], [1.0, 0.0]], [[0.3, 0.3], [0.3, 0.3]]
    shares = F.log_softmax(torch.tensor(spread), dim=1)
    shifted = (shares.mean(dim=0) - F.log_softmax(torch.tensor(average[0]), dim=0)).square().mean().item()
    assert between("logit_means", spread, average) == pytest.approx(shifted, rel=1e-4)
    excess = between("logit_moments", spread, average) - shifted
    assert excess == pytest.approx(shares.var(dim=0).square().mean().item(), rel=1e-4)


# ------------------------------------------------------------------------------------------------ few images of a class


def mean_of_batches(real: Tensor, generated: Tensor, *, unbiased: bool) -> Tensor:
    """The mean distance of class means over batches of four images of one class; takes their logits."""
    labels = torch.zeros(4, dtype=torch.int64)
    batches = zip(real.split(4), generated.split(4), strict=True)
    return torch.stack(
        [measure("logit_means", a, b, labels, drawn(Given()), unbiased=unbiased) for a, b in batches]
    ).mean()


def logits_of_shares(count: int, *, shift: float, spread: Tensor, seed: int) -> Tensor:
    """Logits (B, 2) whose first share's log odds are normal, with this mean and standard deviation."""
    return torch.stack([torch.zeros(count), shift + spread * torch.randn(count, generator=stream(seed))], dim=1)


def test_unbiased_distance_of_small_batches_is_that_of_all_images() -> None:
    real = logits_of_shares(2000, shift=0.0, spread=torch.tensor(0.5), seed=0)
    generated = logits_of_shares(2000, shift=0.2, spread=torch.tensor(0.5), seed=1)
    shares = [F.log_softmax(logits, dim=1).mean(dim=0) for logits in (real, generated)]
    of_all = (shares[0] - shares[1]).square().mean()
    found = {unbiased: mean_of_batches(real, generated, unbiased=unbiased) for unbiased in (False, True)}
    assert found[True].item() == pytest.approx(of_all.item(), rel=0.25)
    assert found[False].item() > 3 * of_all.item()


def test_only_the_biased_distance_asks_images_as_diverse_as_real_ones_to_be_more_alike() -> None:
    real = logits_of_shares(2000, shift=0.0, spread=torch.tensor(0.5), seed=0)
    pulls = {}
    for unbiased in (False, True):
        spread = torch.tensor(0.5, requires_grad=True)
        generated = logits_of_shares(2000, shift=0.0, spread=spread, seed=1)
        mean_of_batches(real, generated, unbiased=unbiased).backward()
        assert spread.grad is not None
        pulls[unbiased] = spread.grad.item()
    assert pulls[False] > 0.05
    assert abs(pulls[True]) < 0.2 * pulls[False]


@pytest.mark.parametrize("kind", OF_MEANS)
def test_unbiased_distance_counts_no_class_of_one_image(kind: MatchingKind) -> None:
    (own,) = (LABELS != 0).nonzero(as_tuple=True)
    real, generated = images(0), images(1)
    whole = measure(kind, real, generated, unbiased=True)
    torch.testing.assert_close(whole, measure(kind, real[own], generated[own], LABELS[own], unbiased=True))
    assert measure(kind, real[:1], generated[:1], LABELS[:1], unbiased=True).item() == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OF_MEANS])
def test_other_kinds_have_no_excess(kind: MatchingKind) -> None:
    torch.testing.assert_close(
        measure(kind, images(0), images(1), unbiased=True), measure(kind, images(0), images(1)), rtol=0, atol=0
    )


# ------------------------------------------------------------------------------------------------ features


class OfActivations(nn.Module):
    """Some activation between two layers, and a second one as a function."""

    def __init__(self, activation: nn.Module, function: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.first = nn.Linear(SIZE * SIZE, 5)
        self.activation = activation
        self.second = nn.Linear(5, NUM_CLASSES)
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.second(self.activation(self.first(images.flatten(1)))))


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval().requires_grad_(False)


MODULES = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.CELU(),
    nn.SELU(), nn.Mish(), nn.Hardswish(), nn.Softplus(), nn.Tanh(), nn.Sigmoid(),
]  # fmt: skip
FUNCTIONS = [F.relu, torch.relu, Tensor.relu, F.gelu, F.silu, torch.tanh, Tensor.sigmoid]


@pytest.mark.parametrize(
    ("activation", "function"),
    [*((module, F.relu) for module in MODULES), *((nn.ReLU(), function) for function in FUNCTIONS[1:])],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_features_are_the_outputs_of_non_linearities_as_modules_or_functions(
    activation: nn.Module, function: Callable[[Tensor], Tensor]
) -> None:
    network = cast(OfActivations, made(lambda: OfActivations(activation, function)))
    real, generated = images(0, 2), images(1, 2)
    labels = torch.tensor([0, 0])
    distances = []
    for half in (real, generated):
        hidden = activation(network.first(half.flatten(1)))
        distances.append((hidden.mean(dim=0), function(network.second(hidden)).mean(dim=0)))
    expected = [(a - b).square().mean() for a, b in zip(*distances, strict=True)]
    found = measure("features", real, generated, labels, drawn(network))
    torch.testing.assert_close(found, torch.stack(expected).mean())


class InPlace(nn.Module):
    """Changes what its activation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE * SIZE, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.linear(images.flatten(1))).mul_(0)


def test_features_are_taken_before_a_layer_that_works_in_place() -> None:
    assert measure("features", images(0), images(1), used=drawn(made(InPlace))).item() > 1e-4


def test_network_without_non_linearity_has_no_features() -> None:
    linear = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, NUM_CLASSES)))
    with pytest.raises(ConfigError, match=r"matching\.kind is 'features', but a Sequential calls none.*networks\.t"):
        measure("features", images(0), images(1), used=drawn(linear))


# ------------------------------------------------------------------------------------------------ gradients


def test_distance_of_gradients_is_one_minus_their_cosine() -> None:
    linear = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, NUM_CLASSES)))
    found = measure("gradients", images(0), images(1), used=drawn(linear))
    linear.requires_grad_(True)
    rows = [
        torch.autograd.grad(F.cross_entropy(linear(half), LABELS), linear[1].weight)[0]  # type: ignore[index]
        for half in (images(0), images(1))
    ]
    torch.testing.assert_close(found, (1 - F.cosine_similarity(*rows, dim=1)).mean())


def test_filter_that_never_fires_is_no_distance() -> None:
    network = teacher()
    network.tensors["1.bias"].fill_(-100.0)  # of the norm before the first ReLU: nothing passes
    generated = images(1).requires_grad_()
    distance = measure("gradients", images(0), generated, used=network)
    distance.backward()
    assert distance.item() == pytest.approx(0, abs=1e-6)
    assert generated.grad is not None
    assert generated.grad.isfinite().all()


class Attention(nn.Module):
    """The fused kernels of its attention can't be differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(SIZE, 2, batch_first=True)
        self.block = nn.TransformerEncoderLayer(SIZE, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(SIZE * SIZE, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.squeeze(1)
        rows = self.block(self.attention(rows, rows, rows, need_weights=False)[0])
        logits: Tensor = self.head(rows.flatten(1))
        return logits


@pytest.mark.parametrize("kind", KINDS)
def test_networks_with_attention_can_be_matched(kind: MatchingKind) -> None:
    used = drawn(made(Attention))
    generated = images(1).requires_grad_()
    measure(kind, images(0), generated, used=used).backward()
    assert generated.grad is not None
    assert generated.grad.isfinite().all()
    assert generated.grad.abs().sum() > 0
    assert measure(kind, images(0), images(0), used=used).item() == pytest.approx(0, abs=1e-6)
