"""Every classifier over the sizes, channels and classes of the sources."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import ARCHITECTURES, IMAGE_SIZES
from dim_ray.core.networks import REGISTRY, build_classifier, num_parameters
from dim_ray.errors import ConfigError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str, *, channels: int = 3, classes: int = 10, size: int = 32, seed: int = 0) -> nn.Module:
    return build_classifier(name, num_channels=channels, num_classes=classes, image_size=size, rng=rng(seed))


def pictures(batch: int, channels: int, size: int) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=rng(99))


def test_registry_has_the_architectures_that_the_configuration_allows() -> None:
    assert sorted(REGISTRY) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 16, 28, 32, 64])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_network_classifies_every_kind_of_image(family: str, size: int, channels: int, classes: int) -> None:
    network = build(f"{family}_w8", channels=channels, classes=classes, size=size)
    images, labels = pictures(4, channels, size), torch.arange(4) % classes
    logits = network(images)
    assert logits.shape == (4, classes)
    F.cross_entropy(logits, labels).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    network.eval()
    # In eval mode an image's logits don't depend on what else is in the batch.
    torch.testing.assert_close(network(images)[:1], network(images[:1]))


@pytest.mark.parametrize("size", [size for size in IMAGE_SIZES if size % 8 in (1, 7)])
def test_convnet_takes_odd_sizes(size: int) -> None:
    assert build("convnet3_w4", channels=1, size=size)(pictures(2, 1, size)).shape == (2, 10)


@pytest.mark.parametrize(("name", "count"), [("convnet3", 320_010), ("resnet18", 11_173_962), ("resnet10", 4_903_242)])
def test_sizes_are_the_published_ones_for_cifar10(name: str, count: int) -> None:
    assert num_parameters(build(name)) == count


def test_a_frozen_network_has_as_many_parameters() -> None:
    assert num_parameters(build("convnet3").requires_grad_(False)) == 320_010


def test_each_width_sets_every_stage_in_proportion() -> None:
    network = build("resnet18_w32")
    for stage, channels in enumerate((32, 64, 128, 256), start=1):
        for block in getattr(network, f"layer{stage}"):
            assert block.conv2.out_channels == channels
    assert network.conv1.out_channels == 32
    convolutions = [part for part in build("convnet3_w48").modules() if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in convolutions] == [48, 48, 48]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_familys_own_width_can_be_written_out(family: str) -> None:
    written = f"{family}_w{128 if family == 'convnet3' else 64}"
    for one, other in zip(build(family).parameters(), build(written).parameters(), strict=True):
        assert torch.equal(one, other)


def test_resnet_sees_small_images_at_full_resolution() -> None:
    network, sizes = build("resnet18_w8"), []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        stage.register_forward_hook(lambda _module, _inputs, out: sizes.append(out.shape[-1]))
    network(pictures(2, 3, 32))
    assert sizes == [32, 16, 8, 4]


def test_convnet_normalises_each_channel_of_each_image() -> None:
    network = build("convnet3_w8")
    hidden = network[1](network[0](pictures(2, 3, 32) * 5 + 3))
    torch.testing.assert_close(hidden.mean((2, 3)), torch.zeros(2, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden.std((2, 3)), torch.ones(2, 8), rtol=0, atol=1e-2)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_weights_depend_on_the_seed_alone(family: str) -> None:
    states = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        states.append(build(family, seed=3).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    first, second = states
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build(family, seed=4).state_dict()
    weights = [name for name in first if first[name].ndim > 1]
    assert not any(torch.equal(first[name], other[name]) for name in weights)


def test_a_fresh_batch_norm_has_seen_nothing() -> None:
    for name, buffer in build("resnet10_w8").named_buffers():
        expected = 1 if name.endswith("running_var") else 0
        assert torch.equal(buffer, torch.full_like(buffer, expected)), name


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_few_steps_learn_a_few_images(family: str) -> None:
    network = build(f"{family}_w16", channels=1, classes=2, size=8)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    images, labels = pictures(8, 1, 8), torch.arange(8) % 2
    for _ in range(80):
        loss = F.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


def test_impossible_requests_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        build("resnet19")
    with pytest.raises(ConfigError, match="image_size is 7; allowed: 8 to 64"):
        build("convnet3", size=7)
    with pytest.raises(ConfigError, match="num_classes is 0; allowed: 1 or more"):
        build("convnet3", classes=0)


def test_a_convnet_does_not_wait_for_torchvision() -> None:
    code = (
        "import sys, torch\n"
        "from dim_ray.core.networks import build_classifier\n"
        "build_classifier('convnet3', num_channels=1, num_classes=2, image_size=8, rng=torch.Generator())\n"
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("size", [2, 7, 8])
def test_convnets_pooling_is_pytorchs_with_its_gradient(size: int) -> None:
    [pooling, *_] = [part for part in build("convnet3_w8").modules() if type(part).__name__ == "_AveragePool"]
    images = pictures(3, 5, size).requires_grad_(True)
    twin = images.detach().clone().requires_grad_(True)
    means, expected = pooling(images), nn.functional.avg_pool2d(twin, 2)
    torch.testing.assert_close(means, expected)
    direction = pictures(3, 5, size // 2)
    means.backward(direction)
    expected.backward(direction)
    torch.testing.assert_close(images.grad, twin.grad)
    assert torch.equal(pooling(images.detach().to(memory_format=torch.channels_last)), means.detach())
