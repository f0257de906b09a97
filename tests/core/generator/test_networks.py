from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from dim_ray.config import Config, GeneratorConfig, MatchingConfig, PriorConfig, StudyConfig
from dim_ray.core.generator.base import scales
from dim_ray.core.generator.networks import Discriminator, Generator, build_discriminator, build_generator
from dim_ray.errors import ConfigError
from tests.helpers.tiny import num_parameters

SIZES = [8, 9, 10, 15, 16, 21, 28, 31, 32, 33, 48, 63, 64]
CONFIG = GeneratorConfig(capacity=4, latent_dim=12, refinements=(2, 1))
FAMILIES = {"paper": CONFIG, "residual": replace(CONFIG, family="residual", discriminator_norm="none")}
SHAPE: dict[str, Any] = {"num_classes": 5, "num_channels": 3, "image_size": 9}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_generator(config: GeneratorConfig = CONFIG, **change: Any) -> Generator:
    return build_generator(config, rng=rng(), **{**SHAPE, **change}).eval()


def make_discriminator(config: GeneratorConfig = CONFIG, **change: Any) -> Discriminator:
    return build_discriminator(config, rng=rng(1), **{**SHAPE, **change})


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> GeneratorConfig:
    """The configuration of a small pair of each family."""
    return FAMILIES[request.param]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "upsampling"), [(1, 1), (3, 1), (3, 2)])
def test_images_have_the_size_asked_for_and_are_judged(
    family: GeneratorConfig, size: int, channels: int, upsampling: int
) -> None:
    shape: dict[str, Any] = {"image_size": size, "num_channels": channels}
    labels = torch.arange(5)
    config = replace(family, upsampling=upsampling)
    images = make_generator(config, **shape).sample(labels, rng())
    assert images.shape == (5, channels, size, size)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    scores, classes = make_discriminator(config, **shape)(images, torch.zeros(len(images), dtype=torch.int64))
    assert (scores.shape, classes.shape) == ((5,), (5, 5))


@pytest.mark.parametrize("size", range(8, 65))
def test_scales_double_or_double_less_one_up_to_the_image(size: int) -> None:
    sizes = scales(size)
    assert sizes[-1] == size
    assert sizes[0] in (3, 4)
    assert all(larger in (2 * smaller, 2 * smaller - 1) for smaller, larger in itertools.pairwise(sizes))


def test_scales_of_the_usual_sizes() -> None:
    assert scales(28) == [4, 7, 14, 28]
    assert scales(32) == [4, 8, 16, 32]


def test_numbers_of_parameters_are_the_reference_implementations() -> None:
    shape = {"num_classes": 10, "num_channels": 1, "image_size": 28}
    config = GeneratorConfig()
    assert (config.capacity, config.resolve_latent_dim(10)) == (196, 100)
    assert num_parameters(build_generator(config, rng=rng(), **shape)) == 3_286_921
    assert num_parameters(build_discriminator(config, rng=rng(), **shape)) == 2_969_803


def test_upsampled_images_are_those_of_a_smaller_generator_enlarged_and_are_judged_reduced(
    family: GeneratorConfig,
) -> None:
    config, labels = replace(family, upsampling=2), torch.arange(5)
    small, large = make_generator(family, image_size=16), make_generator(config, image_size=32)
    assert num_parameters(small) == num_parameters(large)
    images = large.sample(labels, rng())
    expected = F.interpolate(small.sample(labels, rng()), scale_factor=2, mode="bicubic").clamp(-1, 1)
    torch.testing.assert_close(images, expected)
    reduced = images.unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean(dim=(3, 5))
    scores, classes = make_discriminator(config, image_size=32)(images, labels)
    same_scores, same_classes = make_discriminator(family, image_size=16)(reduced, labels)
    torch.testing.assert_close(scores, same_scores)
    torch.testing.assert_close(classes, same_classes)


def test_discriminator_may_have_its_own_capacity() -> None:
    assert num_parameters(make_discriminator(replace(CONFIG, discriminator_capacity=4))) == num_parameters(
        make_discriminator()
    )
    wide = make_discriminator(replace(CONFIG, discriminator_capacity=7))
    assert wide.source.in_features == 7


def test_refinements_are_convolutions_behind_each_doubling() -> None:
    generator = make_generator(replace(CONFIG, refinements=(2, 0, 1, 5)), image_size=32)
    kinds = [type(layer) for layer in generator.blocks if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    up, refine = nn.ConvTranspose2d, nn.Conv2d
    assert kinds == [up, refine, refine, up, up, refine]


def test_other_labels_make_other_images_of_the_same_noise(family: GeneratorConfig) -> None:
    generator = make_generator(family).train()  # batch statistics make small differences between labels large
    noise = torch.randn(1, 12, generator=rng()).expand(5, -1)
    images = generator(noise, torch.arange(5))
    for first in range(5):
        for second in range(first):
            assert (images[first] - images[second]).abs().max() > 1e-3


def test_one_hot_label_replaces_the_first_entries_of_the_noise() -> None:
    generator = make_generator()
    labels = torch.tensor([4, 0, 4])
    noise = torch.randn(3, 12, generator=rng())
    images = generator(noise, labels)
    changed = noise.clone()
    changed[:, :5] += 100
    assert torch.equal(generator(changed, labels), images)
    changed = noise.clone()
    changed[:, 5] += 1
    assert not torch.equal(generator(changed, labels), images)
    latent = torch.tensor([[0.0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    hidden = generator.project(torch.cat([latent, noise[:, 5:]], dim=1)).view(3, 4, 3, 3)
    torch.testing.assert_close(torch.tanh(generator.to_image(generator.blocks(hidden))), images)


@pytest.mark.parametrize("num_classes", [2, 50, 51, 100, 150])
def test_images_of_one_class_differ_however_many_classes_there_are(num_classes: int) -> None:
    generator = make_generator(GeneratorConfig(), num_classes=num_classes).train()  # as above
    images = generator.sample(torch.tensor([num_classes - 1] * 3), rng())
    for first in range(3):
        for second in range(first):
            assert (images[first] - images[second]).abs().max() > 1e-3
    assert generator.latent_dim - num_classes >= 50


def test_samples_are_those_of_their_random_stream(family: GeneratorConfig) -> None:
    generator, labels = make_generator(family), torch.arange(5)
    assert torch.equal(generator.sample(labels, rng(3)), generator.sample(labels, rng(3)))
    assert not torch.equal(generator.sample(labels, rng(3)), generator.sample(labels, rng(4)))
    one = rng(3)
    first, second = generator.sample(labels, one), generator.sample(labels, one)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("build", [build_generator, build_discriminator])
def test_weights_are_those_of_their_random_stream(family: GeneratorConfig, build: Any) -> None:
    first, same, other = (build(family, rng=rng(seed), **SHAPE).state_dict() for seed in (1, 1, 2))
    torch.manual_seed(5)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(bool(tensor.isfinite().all()) for tensor in first.values())


def test_discriminator_judges_each_image_by_itself(family: GeneratorConfig) -> None:
    discriminator = make_discriminator(family)
    images = torch.randn(4, 3, 9, 9, generator=rng())
    labels = torch.arange(4) % discriminator.classes.out_features
    source, classes = discriminator(images, labels)
    for index in range(4):
        own_source, own_classes = discriminator(images[index : index + 1], labels[index : index + 1])
        torch.testing.assert_close(own_source[0], source[index])
        torch.testing.assert_close(own_classes[0], classes[index])


def test_projection_adds_the_inner_product_with_a_vector_of_the_label() -> None:
    discriminator = make_discriminator(replace(CONFIG, source_head="projection"))
    images = torch.randn(2, 3, 9, 9, generator=rng())
    labels = torch.tensor([0, 1])
    hidden = discriminator.features(images).amax(dim=(2, 3))
    assert discriminator.projection is not None
    expected = [
        discriminator.source(row)[0] + discriminator.projection.weight[:, label] @ row
        for row, label in zip(hidden, labels, strict=True)
    ]
    source, classes = discriminator(images, labels)
    torch.testing.assert_close(source, torch.stack(expected))
    torch.testing.assert_close(classes, discriminator.classes(hidden))
    assert not torch.equal(source, discriminator(images, labels.flip(0))[0])


def test_discriminator_is_convolutions_with_layer_norm_and_a_global_maximum() -> None:
    discriminator = make_discriminator(image_size=13)
    hidden = images = torch.randn(2, 3, 13, 13, generator=rng())
    convolutions = [layer for layer in discriminator.features if isinstance(layer, nn.Conv2d)]
    norms = [part for part in discriminator.features.modules() if isinstance(part, nn.LayerNorm)]
    assert [layer.stride[0] for layer in convolutions] == [1, 2, 1, 2, 1, 1, 1, 2]
    for convolution, norm in zip(convolutions, norms, strict=True):
        hidden = convolution(hidden)
        centred = hidden - hidden.mean(dim=(1, 2, 3), keepdim=True)
        hidden = centred / (centred.square().mean(dim=(1, 2, 3), keepdim=True) + norm.eps).sqrt()
        scale, shift = (values.permute(2, 0, 1) for values in (norm.weight, norm.bias))
        hidden = F.leaky_relu(hidden * scale + shift)
    hidden = torch.stack([channels.flatten(1).max(dim=1).values for channels in hidden])
    source, classes = discriminator(images, torch.tensor([0, 1]))
    torch.testing.assert_close(source, discriminator.source(hidden)[:, 0])
    torch.testing.assert_close(classes, discriminator.classes(hidden))


def test_residual_generator_is_blocks_with_norms_of_the_class() -> None:
    generator = build_generator(FAMILIES["residual"], rng=rng(), **SHAPE).train()
    noise, labels = torch.randn(3, 12, generator=rng()), torch.tensor([4, 0, 2])
    weights = {name: value.clone() for name, value in generator.state_dict().items()}
    images = generator(noise, labels)

    def normal(maps: torch.Tensor, name: str) -> torch.Tensor:
        own = F.batch_norm(maps, None, None, weights[f"{name}.weight"], weights[f"{name}.bias"], training=True)
        return own.relu() if "." not in name else own

    def classed(maps: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift = (weights[f"{name}.{kind}.weight"][:, labels].T[:, :, None, None] for kind in ("scale", "shift"))
        return (normal(maps, f"{name}.norm") * (1 + scale) + shift).relu()

    def convolved(maps: torch.Tensor, name: str, padding: int = 1) -> torch.Tensor:
        return F.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def nearest(maps: torch.Tensor, size: int) -> torch.Tensor:
        places = torch.arange(size) * maps.shape[-1] // size
        return maps[:, :, places][:, :, :, places]

    maps = (noise @ weights["project.weight"].T + weights["project.bias"]).view(3, 16, 3, 3)
    for block, size in enumerate((5, 9)):
        hidden = convolved(classed(maps, f"blocks.{block}.first_norm"), f"blocks.{block}.first")
        hidden = classed(nearest(hidden, size), f"blocks.{block}.second_norm")
        shortcut = convolved(maps, f"blocks.{block}.shortcut", padding=0)
        maps = nearest(shortcut, size) + convolved(hidden, f"blocks.{block}.second")
        assert maps.shape[1] == (8, 4)[block]
    expected = convolved(normal(maps, "norm"), "to_image").tanh()
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-4)


def test_residual_discriminator_sums_over_positions() -> None:
    discriminator = make_discriminator(FAMILIES["residual"], image_size=16)
    images, labels = torch.randn(2, 3, 16, 16, generator=rng()), torch.tensor([0, 1])

    def halved(maps: torch.Tensor) -> torch.Tensor:
        return (maps[:, :, ::2] + maps[:, :, 1::2])[..., ::2] / 4 + (maps[:, :, ::2] + maps[:, :, 1::2])[..., 1::2] / 4

    first, down, last, _, _ = discriminator.features
    maps = first(images)
    maps = down.shortcut(halved(maps)) + down.second(halved(down.first(maps.relu()).relu()))
    maps = maps + last.second(last.first(maps.relu()).relu())
    assert maps.shape == (2, 8, 8, 8)
    sums = maps.relu().sum(dim=(2, 3))
    scores, classes = discriminator(images, labels)
    torch.testing.assert_close(scores, discriminator.source(sums)[:, 0])
    torch.testing.assert_close(classes, discriminator.classes(sums / 64))


def test_layer_norm_stands_before_each_non_linearity_of_the_residual_discriminator() -> None:
    discriminator = make_discriminator(replace(FAMILIES["residual"], discriminator_norm="layer"), image_size=16)
    images, labels = torch.randn(2, 3, 16, 16, generator=rng()), torch.tensor([0, 1])
    first, down, last, _, _ = discriminator.features

    def normal(maps: torch.Tensor) -> torch.Tensor:  # whose scales are 1 and shifts 0 at first
        return F.layer_norm(maps, maps.shape[1:]).relu()

    maps = first(images)
    hidden = F.avg_pool2d(normal(down.first(normal(maps))), 2)
    maps = down.shortcut(F.avg_pool2d(maps, 2)) + down.second(hidden)
    maps = maps + last.second(normal(last.first(normal(maps))))
    torch.testing.assert_close(
        discriminator(images, labels)[0], discriminator.source(normal(maps).sum(dim=(2, 3)))[:, 0]
    )


@pytest.mark.parametrize(("size", "widths"), [(8, [4]), (16, [4, 8]), (28, [4, 8, 16]), (64, [4, 8, 16, 16])])
def test_each_halving_doubles_the_channels_of_the_residual_discriminator_up_to_four_times(
    size: int, widths: list[int]
) -> None:
    blocks = make_discriminator(FAMILIES["residual"], image_size=size).features[1:-2]
    assert [block.first.out_channels for block in blocks] == widths


def test_learned_vector_of_the_label_replaces_as_many_entries_of_the_noise() -> None:
    generator = make_generator(replace(CONFIG, label_embedding=3))
    assert generator.embedding is not None
    assert generator.embedding.weight.shape == (5, 3)
    labels = torch.tensor([4, 0, 4])
    noise = torch.randn(3, 12, generator=rng())
    latent = torch.cat([generator.embedding.weight[labels], noise[:, 3:]], dim=1)
    hidden = generator.project(latent).view(3, 4, 3, 3)
    torch.testing.assert_close(torch.tanh(generator.to_image(generator.blocks(hidden))), generator(noise, labels))


def test_embedded_labels_need_less_of_the_latent_vector() -> None:
    assert GeneratorConfig(label_embedding=16).resolve_latent_dim(1000) == 100
    assert GeneratorConfig(label_embedding=80).resolve_latent_dim(1000) == 130
    assert GeneratorConfig().resolve_latent_dim(1000) == 1050


@pytest.mark.parametrize("head", ["plain", "projection"])
def test_spectral_norm_keeps_the_weights_that_lead_to_the_adversarial_score_at_norm_one(
    family: GeneratorConfig, head: Literal["plain", "projection"]
) -> None:
    discriminator = make_discriminator(replace(family, discriminator_norm="spectral", source_head=head))
    assert not any(isinstance(part, nn.LayerNorm) for part in discriminator.modules())
    for _ in range(20):
        discriminator.follow_spectrum()
    layers = [layer for layer in discriminator.features.modules() if isinstance(layer, nn.Conv2d)]
    heads = [part for part in (discriminator.source, discriminator.projection) if part is not None]
    for part in [*layers, *heads]:
        assert torch.linalg.matrix_norm(part.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.02)
    assert len(heads) == (2 if head == "projection" else 1)


def test_passes_and_stored_weights_of_pytorchs_spectral_norm_are_ours() -> None:
    config = replace(CONFIG, discriminator_norm="spectral", source_head="projection")
    ours, theirs = make_discriminator(config), Discriminator(config, **SHAPE)
    assert theirs.projection is not None
    convolutions = [layer for layer in theirs.features if isinstance(layer, nn.Conv2d)]
    for part in (*convolutions, theirs.source, theirs.projection):
        spectral_norm(part)
    images, labels = torch.randn(4, 3, 9, 9, generator=rng()), torch.tensor([0, 1, 2, 3])
    theirs(images, labels)
    ours.load_state_dict(theirs.state_dict())  # with the vectors v, as in what older versions stored
    for discriminator in (ours, theirs.eval()):
        scores, classes = discriminator(images, labels)
        (scores.sum() + classes[:, 0].sum()).backward()
    gradients = dict(ours.named_parameters())
    torch.testing.assert_close(ours(images, labels), theirs(images, labels))
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad)


def test_spectral_norm_does_not_touch_the_global_random_state() -> None:
    config = replace(CONFIG, discriminator_norm="spectral")
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(make_discriminator(config).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize(("section", "make"), [("prior", PriorConfig), ("matching", MatchingConfig)])
def test_batch_of_a_single_image_per_worker_is_refused_by_the_configuration(
    section: str, make: Any, num_workers: int
) -> None:
    study = StudyConfig(workers_per_trial=num_workers)
    others = {name: replace(getattr(Config(), name), batch_size=96) for name in ("prior", "matching")}
    Config(study=study, **{**others, section: make(batch_size=2 * num_workers)})
    with pytest.raises(
        ConfigError, match=rf"{section}\.batch_size is {num_workers}; allowed: .*at least {2 * num_workers}"
    ):
        Config(study=study, **{**others, section: make(batch_size=num_workers)})
    with pytest.raises(ValueError, match="more than 1 value"):
        make_generator().train().sample(torch.tensor([0]), rng())
