"""Every classifier over the sizes, channels and classes of the sources, its size, and its twin in torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.densenet import densenet121
from torchvision.models.resnet import ResNet, resnet18, resnet34, resnet50
from torchvision.models.vgg import vgg11_bn
from torchvision.models.vision_transformer import VisionTransformer

from dim_ray.config import ARCHITECTURES, IMAGE_SIZES, Norm, check_architecture
from dim_ray.core.networks import REGISTRY, build_classifier
from dim_ray.core.networks.layers import AveragePool, make_norm
from dim_ray.core.training.precision import autocast
from dim_ray.errors import ConfigError
from tests.helpers.tiny import num_parameters

# Every family, narrow where it has a width, and every option once.
NARROW = (
    "alexnet_w8",
    "convnet1_w8",
    "convnet2_w8",
    "convnet3_w8",
    "convnet3_bn_w8",
    "convnet3_gn_w8",
    "convnet3_ln_w8",
    "convnet3_nonorm_w8",
    "convnet4_w8",
    "convnet5_w8",
    "convnet6_w8",
    "densenet121_w8",
    "lenet",
    "mlp_w8",
    "resnet10_w8",
    "resnet10_ap_w8",
    "resnet18_ap_in_w8",
    "resnet18_w8",
    "resnet34_w8",
    "resnet50_ap_w8",
    "vgg11_w8",
    "vgg11_in_w8",
    "vit_tiny_w12",
    "convnet3_dim",
    "densenet121_dim",
    "resnet10_dim",
    "resnet10_ap_dim",
    "resnet10_dim7",
    "resnet10_ap_dim7",
)
KINDS = [(8, 1, 2), (9, 3, 10), (28, 1, 100)]  # size, channels, classes


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str, *, channels: int = 3, classes: int = 10, size: int = 32, seed: int = 0) -> nn.Module:
    return build_classifier(name, num_channels=channels, num_classes=classes, image_size=size, rng=rng(seed))


def pictures(batch: int, channels: int, size: int) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=rng(99))


@contextmanager
def global_random_state_untouched() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def map_sizes(network: nn.Module, images: Tensor, kinds: tuple[type[nn.Module], ...]) -> list[int]:
    """Returns the height of what goes into each module of these kinds."""
    sizes: list[int] = []
    for part in network.modules():
        if isinstance(part, kinds):
            part.register_forward_pre_hook(lambda _module, inputs: sizes.append(inputs[0].shape[-2]))
    with torch.no_grad():
        network(images)
    return sizes


def check_classifier(name: str, *, size: int, channels: int, classes: int) -> None:
    network = build(name, channels=channels, classes=classes, size=size)
    images, labels = pictures(2, channels, size), torch.arange(2) % classes
    with global_random_state_untouched():  # as dropout would, and a resumed run would then give other bits
        logits = network(images)
        assert logits.shape == (2, classes)
        F.cross_entropy(logits, labels).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    # In eval mode an image's logits don't depend on what else is in the batch. In double precision, because instance
    # norm over four pixels enlarges rounding errors.
    network.double().eval().requires_grad_(False)
    expected = network(images.double())
    torch.testing.assert_close(network(images[:1].double()), expected[:1])
    # As the teacher pool calls it, with a gradient to the images.
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inputs = images.double().requires_grad_(True)
    again = torch.func.functional_call(network, tensors, (inputs,), strict=True)
    torch.testing.assert_close(again, expected)
    again.sum().backward()
    assert inputs.grad is not None
    assert torch.isfinite(inputs.grad).all()


def test_registry_has_the_architectures_that_the_configuration_allows() -> None:
    assert sorted(REGISTRY) == sorted(ARCHITECTURES)


def test_narrow_networks_are_of_every_family() -> None:
    assert {check_architecture(name).family for name in NARROW} == set(ARCHITECTURES)


@pytest.mark.parametrize(("size", "channels", "classes"), KINDS)
@pytest.mark.parametrize("name", NARROW)
def test_every_network_classifies_every_kind_of_image(name: str, size: int, channels: int, classes: int) -> None:
    check_classifier(name, size=size, channels=channels, classes=classes)


@pytest.mark.parametrize("name", NARROW)
def test_every_network_trains_in_bfloat16(name: str) -> None:
    network, images = build(name, size=16), pictures(4, 3, 16)
    with autocast("bfloat16", torch.device("cpu")):
        logits = network(images)
    F.cross_entropy(logits.float(), torch.arange(4)).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", NARROW)
def test_every_network_takes_every_size(name: str) -> None:
    for size in IMAGE_SIZES:
        channels = 1 if size % 2 else 3
        if size < 18 or size in (31, 32, 33, 64):
            check_classifier(name, size=size, channels=channels, classes=150)
        else:
            with torch.no_grad():
                network = build(name, channels=channels, classes=150, size=size)
                assert network(pictures(2, channels, size)).shape == (2, 150)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alexnet", 1_872_202),
        ("convnet3", 320_010),
        ("densenet121", 6_956_298),
        ("lenet", 62_006),
        ("mlp", 411_146),
        ("resnet10", 4_903_242),
        ("resnet18", 11_173_962),
        ("resnet18_ap", 11_173_962),
        ("resnet18_in", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("vgg11", 9_231_114),
        ("vit_tiny", 5_362_762),
    ],
)
def test_sizes_are_the_published_ones_for_cifar10(name: str, count: int) -> None:
    assert num_parameters(build(name)) == count


@pytest.mark.parametrize(
    ("name", "channels", "size", "count"),
    [
        ("convnet3_dim", 3, 32, 320_010),
        ("convnet3_dim", 1, 28, 317_706),
        ("densenet121_dim", 3, 32, 1_000_618),
        ("resnet10_dim", 3, 32, 1_228_970),
        ("resnet10_ap_dim", 1, 28, 1_228_394),
        ("resnet18_dim", 3, 32, 2_797_610),
        ("resnet18_ap_dim", 3, 32, 2_797_610),
        ("resnet10_dim7", 3, 32, 4_910_922),
        ("resnet10_ap_dim7", 1, 28, 4_904_650),
        ("resnet18_dim7", 1, 28, 11_175_370),
        ("resnet18_ap_dim7", 3, 32, 11_181_642),
    ],
)
def test_networks_of_dims_code_have_its_sizes(name: str, channels: int, size: int, count: int) -> None:
    assert num_parameters(build(name, channels=channels, size=size)) == count


@pytest.mark.parametrize("name", ["resnet10_dim", "resnet18_ap_dim", "resnet10_dim7", "resnet10_ap_dim7"])
def test_convolutions_of_dims_resnets_begin_as_normal_with_the_variance_of_what_they_feed(name: str) -> None:
    network = build(name)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            height, width = part.kernel_size
            values = part.weight.detach().flatten() / (2 / (height * width * part.out_channels)) ** 0.5
            noise = 5 / len(values) ** 0.5
            assert values.mean().abs() < noise
            assert (values.square().mean() - 1).abs() < 2**0.5 * noise
            assert (values.pow(4).mean() - 3).abs() < 96**0.5 * noise  # a uniform distribution has 1.8
        elif isinstance(part, nn.BatchNorm2d):
            assert torch.equal(part.weight, torch.ones_like(part.weight))
            assert torch.equal(part.bias, torch.zeros_like(part.bias))
        elif isinstance(part, nn.Linear):
            for values in (part.weight.detach(), part.bias.detach()):  # uniform
                assert 0.8 < values.abs().max() * part.in_features**0.5 <= 1


@pytest.mark.parametrize("size", [8, 17, 28])
def test_dims_convnet_pads_grey_images_by_two_pixels_more(size: int) -> None:
    network, larger = build("convnet3_dim", channels=1, size=size), build("convnet3", channels=1, size=size + 4)
    images = pictures(2, 1, size)
    torch.testing.assert_close(network(images), larger(F.pad(images, (2, 2, 2, 2))))
    assert torch.equal(build("convnet3_dim")(pictures(2, 3, 32)), build("convnet3")(pictures(2, 3, 32)))


def test_dims_resnet_with_a_large_stem_is_torchvisions() -> None:
    twin, network = resnet18(num_classes=10), build("resnet18_dim7")
    twin.load_state_dict(network.state_dict())
    images = pictures(4, 3, 32)
    torch.testing.assert_close(network(images), twin(images))


def test_dims_large_stem_pools_four_by_four_instead_of_strides() -> None:
    network = build("resnet10_ap_dim7", channels=1, size=28)
    assert not [part for part in network.modules() if isinstance(part, nn.Conv2d) and part.stride != (1, 1)]
    images, found = pictures(4, 1, 28), []
    network.layer1.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0]))
    network(images)
    hidden = F.conv2d(images, network.conv1.weight, padding=3)
    normed = (hidden - hidden.mean((0, 2, 3), keepdim=True)) / (
        hidden.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(found, [normed.relu().unflatten(3, (7, 4)).unflatten(2, (7, 4)).mean((3, 5))])


@pytest.mark.parametrize(("norm", "per_block"), [("", 256), ("_bn", 256), ("_gn", 256), ("_nonorm", 0)])
def test_size_of_a_convnet_is_that_of_its_blocks(norm: str, per_block: int) -> None:
    for depth, pixels in [(1, 16), (2, 8), (3, 4), (4, 2), (5, 1)]:
        blocks = 3 * 9 * 128 + (depth - 1) * 128 * 9 * 128 + depth * (128 + per_block)
        assert num_parameters(build(f"convnet{depth}{norm}")) == blocks + 128 * pixels**2 * 10 + 10


def test_layer_norm_of_a_convnet_has_a_scale_and_a_shift_for_each_value() -> None:
    assert num_parameters(build("convnet3_ln")) == 320_010 - 3 * 256 + 2 * 128 * (32**2 + 16**2 + 8**2)


def test_each_width_sets_every_stage_in_proportion() -> None:
    network = build("resnet18_w32")
    for stage, channels in enumerate((32, 64, 128, 256), start=1):
        for block in getattr(network, f"layer{stage}"):
            assert block.conv2.out_channels == channels
    assert network.conv1.out_channels == 32
    for name, widths in [
        ("convnet3_w48", [48, 48, 48]),
        ("alexnet_w32", [32, 48, 64, 48, 48]),
        ("vgg11_w16", [16, 32, 64, 64, 128, 128, 128, 128]),
    ]:
        convolutions = [part for part in build(name).modules() if isinstance(part, nn.Conv2d)]
        assert [part.out_channels for part in convolutions] == widths


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("convnet3", 28, [28, 14, 7]),
        ("convnet3", 8, [8, 4, 2]),
        ("convnet6", 8, [8, 4, 2, 2, 2, 2]),
        ("convnet5", 28, [28, 14, 7, 3, 3]),
        ("vgg11", 32, [32, 16, 8, 8, 4, 4, 2, 2]),
        ("vgg11", 9, [9, 4, 2, 2, 2, 2, 2, 2]),
        ("resnet10", 32, [32, 32, 32, 16, 16, 16, 8, 8, 8, 4, 4, 4]),
        ("resnet10", 9, [9, 9, 9, 5, 5, 5, 3, 3, 3, 2, 2, 2]),
        ("resnet10", 8, [8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 2, 2]),
        ("resnet10_ap", 15, [15, 15, 15, 15, 7, 7, 7, 3, 3, 3, 3, 3]),
    ],
)
def test_maps_are_halved_until_one_pixel_would_be_left(name: str, size: int, expected: list[int]) -> None:
    check_map_sizes(f"{name}_w8", size, expected)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet10_dim7", 32, [16, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]),
        ("resnet10_dim7", 28, [14, 7, 7, 4, 4, 4, 2, 2, 2, 1, 1, 1]),
        ("resnet10_dim7", 9, [5, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1]),
        ("resnet10_ap_dim7", 32, [32, 8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1]),
        ("resnet10_ap_dim7", 28, [28, 7, 7, 7, 3, 3, 3, 1, 1, 1, 1, 1]),
    ],
)
def test_a_large_stem_leaves_a_quarter_which_is_halved_to_one_pixel(name: str, size: int, expected: list[int]) -> None:
    check_map_sizes(name, size, expected)


def check_map_sizes(name: str, size: int, expected: list[int]) -> None:
    network = build(name, size=size)
    assert map_sizes(network, pictures(2, 3, size), (nn.BatchNorm2d, nn.GroupNorm)) == expected


@pytest.mark.parametrize("size", [8, 15])
@pytest.mark.parametrize("name", [name for name in NARROW if not name.endswith("_dim7")])
def test_no_norm_sees_a_map_of_one_pixel(name: str, size: int) -> None:
    sizes = map_sizes(build(name, size=size), pictures(2, 3, size), (nn.BatchNorm2d, nn.GroupNorm))
    assert all(seen > 1 for seen in sizes)


def test_convnet_normalises_each_channel_of_each_image() -> None:
    network = build("convnet3_w8")
    hidden = network[1](network[0](pictures(2, 3, 32) * 5 + 3))
    torch.testing.assert_close(hidden.mean((2, 3)), torch.zeros(2, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden.std((2, 3)), torch.ones(2, 8), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("norm", "over"), [("bn", (0, 2, 3)), ("in", (2, 3)), ("ln", (1, 2, 3)), ("gn", (2, 3, 4)), ("nonorm", None)]
)
def test_norms_take_their_mean_over_these_dimensions(norm: Norm, over: tuple[int, ...] | None) -> None:
    maps = pictures(3, 8, 5) * 2 + 1
    normed = make_norm(norm, 8, 5)(maps)
    values = maps.view(3, 4, 2, 5, 5) if norm == "gn" else maps
    if over is not None:
        mean, variance = values.mean(over, keepdim=True), values.var(over, unbiased=False, keepdim=True)
        values = (values - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(normed, values.reshape(maps.shape))


@pytest.mark.parametrize("name", NARROW)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    states = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        with global_random_state_untouched():
            states.append(build(name, seed=3).state_dict())
    first, second = states
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = build(name, seed=4).state_dict()
    drawn = [key for key, tensor in first.items() if (tensor != tensor.flatten()[0]).any()]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_a_fresh_batch_norm_has_seen_nothing() -> None:
    for name, buffer in build("resnet10_w8").named_buffers():
        expected = 1 if name.endswith("running_var") else 0
        assert torch.equal(buffer, torch.full_like(buffer, expected)), name


@pytest.mark.parametrize("name", [name for name in NARROW if "_dim" not in name])
def test_a_few_steps_learn_a_few_images(name: str) -> None:
    network = build(name, channels=1, classes=2, size=8)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
    images, labels = pictures(8, 1, 8), torch.arange(8) % 2
    loss = torch.tensor(torch.inf)
    for _ in range(300):
        if loss < 0.3:
            break
        loss = F.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3


def small_stem(network: ResNet) -> ResNet:
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return network


@pytest.mark.parametrize("make", [resnet18, resnet34, resnet50])
def test_resnet_is_torchvisions_with_another_stem(make: Callable[..., ResNet]) -> None:
    twin, network = small_stem(make(num_classes=7)), build(make.__name__, classes=7)
    twin.load_state_dict(network.state_dict())
    images = pictures(2, 3, 32)
    torch.testing.assert_close(network(images), twin(images))


def test_densenet_is_torchvisions_with_another_stem() -> None:
    twin, network = densenet121(num_classes=7), build("densenet121", classes=7)
    twin.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(twin.features, name, nn.Identity())
    twin.load_state_dict(network.state_dict())
    images = pictures(2, 3, 32)
    torch.testing.assert_close(network(images), twin(images))


def test_vggs_convolutions_are_torchvisions() -> None:
    network, images = build("vgg11", classes=7, size=64), pictures(2, 3, 64)
    with torch.device("meta"):
        twin = vgg11_bn().features
    twin.to_empty(device="cpu").load_state_dict(network.features.state_dict())
    maps = twin(images)
    assert maps.shape == (2, 512, 2, 2)
    torch.testing.assert_close(network(images), network.classifier(maps.mean((2, 3))))


def test_vit_is_torchvisions_and_so_are_the_distributions_of_its_weights() -> None:
    torch.manual_seed(0)
    network = build("vit_tiny", classes=7)
    twin = VisionTransformer(
        image_size=32, patch_size=4, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=7
    )
    drawn = dict(network.transformer.named_parameters())
    for name, expected in twin.named_parameters():
        actual = drawn[name].detach()
        if len(expected.unique()) < 3:  # ones or zeros
            assert torch.equal(actual, expected), name
        else:
            spread, noise = expected.detach().std(), 5 / actual.numel() ** 0.5
            torch.testing.assert_close(actual.std(), spread, rtol=noise, atol=0)
            torch.testing.assert_close(actual.abs().max(), expected.detach().abs().max(), rtol=0.5, atol=0)
            assert actual.mean().abs() < noise * spread, name
    images = pictures(2, 3, 32)
    network.transformer.heads.head.weight.data.normal_()
    twin.load_state_dict(network.transformer.state_dict())
    torch.testing.assert_close(network(images), twin(images))


def residual_pooling_slowly(block: nn.Module, images: Tensor) -> Tensor:
    """The second branch and the shortcut of a block with stride 2, which pools after its norm of stride 1."""
    convolutions = ["conv1", "conv2", "conv3"] if hasattr(block, "conv3") else ["conv1", "conv2"]
    strided = convolutions[-2]  # torchvision's stride is in the 3x3 convolution of a bottleneck
    hidden = images
    for name in convolutions:
        weight = getattr(block, name).state_dict()["1.weight" if name == convolutions[-1] else "weight"]
        hidden = getattr(block, name.replace("conv", "bn"))(F.conv2d(hidden, weight, padding=weight.shape[-1] // 2))
        if name != convolutions[-1]:
            hidden = hidden.relu()
        if name == strided:
            hidden = F.avg_pool2d(hidden, 2)
    shortcut = F.avg_pool2d(F.conv2d(images, block.downsample[0].weight), 2)
    return (hidden + block.downsample[2](shortcut)).relu()


@pytest.mark.parametrize("name", ["resnet10_ap_w8", "resnet18_ap_in_w8", "resnet50_ap_w8"])
def test_pooled_resnet_averages_where_the_other_one_has_strides(name: str) -> None:
    network, strided = build(name), build(name.replace("_ap", ""))
    assert not [part for part in network.modules() if isinstance(part, nn.Conv2d) and part.stride != (1, 1)]
    assert num_parameters(network) == num_parameters(strided)
    for block, other in zip(network.layer2, strided.layer2, strict=True):
        maps = pictures(2, block.conv1.in_channels, 32 if block is network.layer2[0] else 16)
        assert block(maps).shape == other(maps).shape
    first = network.layer3[0]
    maps = pictures(2, first.conv1.in_channels, 16)
    torch.testing.assert_close(first(maps), residual_pooling_slowly(first, maps))


@pytest.mark.parametrize(("name", "size", "padded"), [("lenet", 28, 32), ("lenet", 9, 32), ("vit_tiny_w12", 9, 12)])
def test_a_small_image_is_padded_evenly_with_zeros(name: str, size: int, padded: int) -> None:
    network, larger = build(name, size=size), build(name, size=padded)
    for one, other in zip(network.parameters(), larger.parameters(), strict=True):
        assert torch.equal(one, other)
    for model in (network, larger):  # a fresh transformer's logits are zero
        [*_, head] = [part for part in model.modules() if isinstance(part, nn.Linear)]
        head.weight.data.fill_(1).cumsum_(1)
    before, after = (padded - size) // 2, (padded - size + 1) // 2
    images = pictures(2, 3, size)
    surrounded = F.pad(images, (before, after, before, after))
    assert torch.equal(network(images), larger(surrounded))


def test_impossible_requests_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        build("resnet19")
    with pytest.raises(ConfigError, match="vgg11 takes _in, then _w and a width"):
        build("vgg11_ap")


@pytest.mark.parametrize("size", [2, 7, 8])
def test_average_pooling_is_pytorchs_with_its_gradient(size: int) -> None:
    pooling = AveragePool()
    images = pictures(3, 5, size).requires_grad_(True)
    twin = images.detach().clone().requires_grad_(True)
    means, expected = pooling(images), nn.functional.avg_pool2d(twin, 2)
    torch.testing.assert_close(means, expected)
    direction = pictures(3, 5, size // 2)
    means.backward(direction)
    expected.backward(direction)
    torch.testing.assert_close(images.grad, twin.grad)
    assert torch.equal(pooling(images.detach().to(memory_format=torch.channels_last)), means.detach())
