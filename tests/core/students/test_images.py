from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from dim_ray.config import PROTOCOLS, Precision, Protocol, Quirk
from dim_ray.core.students.images import TeacherHelp, balanced_labels, choose
from dim_ray.core.training.random import stream
from tests.helpers import reference
from tests.helpers.tiny_students import CONFIG, DATASET, agree, make_generator, make_stream

GENERATED: tuple[Protocol, ...] = ("on_the_fly", "fixed")
REAL: tuple[Protocol, ...] = ("real_on_the_fly", "real_fixed")
QUIRKS: tuple[tuple[Quirk, ...], ...] = ((), ("extra_batch",), ("dropped_batches",))


def test_labels_are_balanced_class_after_class() -> None:
    assert balanced_labels(3, 2).tolist() == [0, 0, 1, 1, 2, 2]
    for protocol in (*GENERATED, *REAL):
        images, labels = make_stream(protocol, images_per_class=3)(0)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert labels.dtype == torch.int64
        assert images.shape == (9, 1, 8, 8)
        assert images.dtype == torch.float32


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def drawn_by_epoch(protocol: str, images_per_class: int, epochs: int, **change: Any) -> list[tuple[Tensor, Tensor]]:
    image_stream = make_stream(protocol, images_per_class=images_per_class, epochs=epochs, **change)
    return [image_stream(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize(("images_per_class", "epochs"), [(1, 3), (2, 4), (3, 1), (3, 2), (3, 5), (8, 3), (1, 30)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("quirks", QUIRKS)
def test_drawn_and_distinct_images_are_as_many_as_the_budget_says(
    quirks: tuple[Quirk, ...], protocol: str, images_per_class: int, epochs: int
) -> None:
    config = replace(CONFIG, epochs=epochs, quirks=quirks)
    budget = agree(protocol, config, images_per_class=images_per_class)
    assert budget.epochs == epochs
    if not budget.optimiser_steps:
        assert budget.images_drawn == budget.distinct_images == 0
        return
    epochs_drawn = drawn_by_epoch(protocol, images_per_class, epochs, config=config)
    drawn = [key for images, _ in epochs_drawn for key in keys(images)]
    assert len(drawn) == budget.images_drawn
    assert len(set(drawn)) == budget.distinct_images


@pytest.mark.parametrize("protocol", [*GENERATED, *REAL])
def test_epochs_of_another_length_still_deal_the_labels_evenly(protocol: str) -> None:
    config = replace(CONFIG, quirks=("extra_batch",))  # eight images an epoch instead of six
    seen: Counter[int] = Counter()
    for _, labels in drawn_by_epoch(protocol, 2, 3, config=config):
        assert len(labels) == 8
        seen.update(labels.tolist())
    assert sorted(seen.values()) == [8, 8, 8]


def test_a_shorter_epoch_of_a_set_goes_on_where_the_one_before_ended() -> None:
    config = replace(CONFIG, quirks=("dropped_batches",))  # four of six images an epoch
    drawn = [key for images, _ in drawn_by_epoch("fixed", 2, 9, config=config) for key in keys(images)]
    rounds = [drawn[start : start + 6] for start in range(0, 36, 6)]
    assert all(len(set(images)) == 6 for images in rounds)
    assert len({tuple(images) for images in rounds}) > 1


def test_all_real_images_come_in_every_epoch() -> None:
    for images, labels in drawn_by_epoch("real_full", 2, 2):
        assert torch.equal(labels, DATASET.train.labels)
        assert torch.equal(images, DATASET.normalisation.from_bytes(DATASET.train.images))


def test_uniform_labels_are_drawn_for_each_image_and_the_image_is_of_its_label() -> None:
    generator = make_generator().eval()
    config = replace(CONFIG, quirks=("uniform_labels",))
    epochs = drawn_by_epoch("on_the_fly", 20, 5, config=config, generator=generator)
    counts = [labels.bincount(minlength=3).tolist() for _, labels in epochs]
    assert all(sum(count) == 60 for count in counts)
    assert len({tuple(count) for count in counts}) > 1
    assert counts[0] != [20, 20, 20]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    assert all(70 < total < 130 for total in totals)  # 100 each, with a standard deviation of 8
    (images, labels), *_ = epochs
    noise = torch.randn(60, 8, generator=stream(0, "images"))
    expected = DATASET.normalisation.from_signed(generator(noise, labels).detach())
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=1e-4)


# Teachers

SOFT = replace(CONFIG, labels="soft")


class Labels:
    """Gives labels, and keeps the images that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.append(images)
        return torch.softmax(images.flatten(1)[:, :3], dim=1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_soft_labels_belong_to_the_images_as_they_are_delivered(protocol: str) -> None:
    labeller = Labels()
    for images, labels in drawn_by_epoch(protocol, 2, 3, teachers=TeacherHelp(label=labeller), config=SOFT):
        torch.testing.assert_close(labels, torch.softmax(images.flatten(1)[:, :3], dim=1))
    hard = drawn_by_epoch(protocol, 2, 3)
    soft = drawn_by_epoch(protocol, 2, 3, teachers=TeacherHelp(label=labeller), config=SOFT)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(hard, soft, strict=True)), "labels changed the images"


@pytest.mark.parametrize("quirks", QUIRKS)
@pytest.mark.parametrize("protocol", ["fixed", "real_fixed", "real_full"])
def test_labels_of_a_set_are_made_once(protocol: str, quirks: tuple[Quirk, ...]) -> None:
    labeller = Labels()
    config = replace(SOFT, quirks=quirks)
    drawn_by_epoch(protocol, 2, 5, teachers=TeacherHelp(label=labeller), config=config)
    assert [len(images) for images in labeller.asked] == [24 if protocol == "real_full" else 6]


def test_first_candidate_that_teachers_call_its_class_is_chosen_or_else_the_closest() -> None:
    shares = torch.tensor(
        [
            [[0.1, 0.9, 0.0], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0]],  # of class 0: the second, though the third is clearer
            [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.9, 0.1, 0.0]],  # of class 1, which none looks like: the second
        ]
    )
    assert choose(shares.flatten(0, 1), torch.tensor([0, 1])).tolist() == [1, 3 + 1]


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("protocol", GENERATED)
def test_chosen_images_are_those_of_the_slow_reference(protocol: Protocol, labels: Literal["hard", "soft"]) -> None:
    generator, labeller = make_generator().eval(), Labels()
    config = replace(CONFIG, candidates=4, labels=labels)
    for epoch, (images, _) in enumerate(
        drawn_by_epoch(protocol, 2, 2, config=config, generator=generator, teachers=TeacherHelp(label=labeller))
    ):
        number = epoch if protocol == "on_the_fly" else 0
        noise = torch.randn(24, 8, generator=stream(0, "images", step=number)).view(6, 4, 8)
        for image, label, own in zip(images, balanced_labels(3, 2), noise, strict=True):
            made = generator(own, label.repeat(4)).detach()
            seen = DATASET.normalisation.from_signed(made)
            shares = torch.softmax(seen.flatten(1)[:, :3], dim=1)
            right = [number for number in range(4) if shares[number].argmax() == label]
            expected = seen[right[0] if right else int(shares[:, label].argmax())]
            torch.testing.assert_close(image, expected, atol=0.02, rtol=0)  # a byte's rounding, for a fixed set


@pytest.mark.parametrize("protocol", REAL)
def test_candidates_are_nothing_to_real_images(protocol: Protocol) -> None:
    plain, recipe = (replace(CONFIG, candidates=count).recipe(protocol, 1) for count in (1, 4))
    assert plain == recipe


@pytest.mark.parametrize("change", [{"labels": "soft"}, {"candidates": 2}])
def test_teachers_that_are_missing_are_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need teachers"):
        drawn_by_epoch("fixed", 2, 1, config=replace(CONFIG, **change))


@pytest.mark.parametrize("protocol", REAL)
def test_real_images_keep_their_labels_and_normalisation(protocol: str) -> None:
    normalised = reference.normalise(DATASET.train.images / 255, DATASET)
    for images, labels in drawn_by_epoch(protocol, 3, 4):
        for image, label in zip(images, labels.tolist(), strict=True):
            distances = (normalised - image).abs().amax(dim=(1, 2, 3))
            assert distances.min() < 1e-5
            assert DATASET.train.labels[distances.argmin()] == label


def test_real_images_come_equally_often_before_any_comes_again() -> None:
    counts = Counter(key for images, _ in drawn_by_epoch("real_on_the_fly", 2, 6) for key in keys(images))
    assert sorted(counts.values()) == [1] * 12 + [2] * 12  # 12 draws of each class of 8


def test_real_images_come_in_another_order_the_second_time() -> None:
    first, second = (keys(images) for images, _ in drawn_by_epoch("real_on_the_fly", 8, 2))
    assert first != second
    assert set(first) == set(second)


@pytest.mark.parametrize("protocol", ["fixed", "real_fixed"])
def test_fixed_images_are_the_same_in_every_epoch(protocol: str) -> None:
    (first, _), *others = drawn_by_epoch(protocol, 3, 4)
    assert len(set(keys(first))) == 9
    assert all(torch.equal(images, first) for images, _ in others)


def test_images_generated_on_the_fly_never_come_again() -> None:
    drawn = [key for images, _ in drawn_by_epoch("on_the_fly", 3, 10) for key in keys(images)]
    assert len(set(drawn)) == len(drawn) == 90


@pytest.mark.parametrize("protocol", [*GENERATED, *REAL])
def test_images_depend_on_seed_and_epoch_alone(protocol: str) -> None:
    first, same, other = (drawn_by_epoch(protocol, 2, 3, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    late = make_stream(protocol, images_per_class=2, epochs=3, seed=1)
    late(0)
    assert torch.equal(late(2)[0], first[2][0]), "an epoch that was left out changed another"


@pytest.mark.parametrize("protocol", GENERATED)
def test_generated_images_are_the_generators_in_eval_mode(protocol: str) -> None:
    generator = make_generator().train()
    statistics = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    ((images, labels),) = drawn_by_epoch(protocol, 4, 1, generator=generator)
    assert not images.requires_grad
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in generator.named_buffers())
    generator.eval()
    noise = torch.randn(12, 8, generator=stream(0, "images"))
    for index, label in enumerate(labels):
        (image,) = generator(noise[index : index + 1], label[None])
        expected = reference.normalise((image[None].detach() + 1) / 2, DATASET)[0]
        rounding = 0.5 / 255 / DATASET.normalisation.std[0] if protocol == "fixed" else 0.0
        torch.testing.assert_close(images[index], expected, atol=1e-4 + rounding, rtol=1e-4)


def bytes_of(images: Tensor) -> Tensor:
    """Returns normalised images on the scale of bytes."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (DATASET.normalisation.mean, DATASET.normalisation.std)
    )
    return (images * std + mean) * 255


@pytest.mark.parametrize("protocol", ["fixed", *REAL])
def test_images_that_are_stored_are_whole_bytes(protocol: str) -> None:
    for images, _ in drawn_by_epoch(protocol, 4, 2):
        values = bytes_of(images)
        torch.testing.assert_close(values, values.round(), atol=1e-2, rtol=0)


def test_images_generated_on_the_fly_are_not_rounded() -> None:
    for images, _ in drawn_by_epoch("on_the_fly", 4, 2):
        values = bytes_of(images)
        assert (values - values.round()).abs().mean() == pytest.approx(0.25, abs=0.05)  # as for any real number


def test_images_are_generated_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dim_ray.core.students.images._MAP_BYTES_ON_CPU", 5 * 4 * 64 * 4
    )  # four channels of 8 x 8 floats
    sizes = []
    generator = make_generator()
    generator.register_forward_hook(lambda module, given, images: sizes.append(len(images)))
    ((images, labels),) = drawn_by_epoch("on_the_fly", 4, 1, generator=generator)
    assert sizes == [5, 5, 2]
    assert len(images) == len(labels) == 12
    assert len(set(keys(images))) == 12


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_images_of_an_epoch_are_the_same_however_many_epochs_are_generated_at_once(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, generator, sizes = replace(CONFIG, precision=precision), make_generator(), []
    generator.register_forward_hook(lambda module, given, images: sizes.append(len(images)))
    together = drawn_by_epoch("on_the_fly", 2, 5, config=config, generator=generator)
    monkeypatch.setattr("dim_ray.core.students.images._AHEAD_BYTES", 2 * 6 * 64 * 4)
    image_stream = make_stream("on_the_fly", config, epochs=5, generator=generator)
    for epoch in (4, 1, 0, 2, 3):
        images, labels = image_stream(epoch)
        assert torch.equal(labels, together[epoch][1])
        torch.testing.assert_close(images, together[epoch][0], atol=1e-5 if precision == "float32" else 0.05, rtol=0)
    assert sizes == [30, 6, 12, 12]


def test_images_in_bfloat16_differ_from_those_in_float32_by_less_than_rounding_to_bytes_does() -> None:
    full, half = (
        drawn_by_epoch("on_the_fly", 20, 2, config=replace(CONFIG, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    levels = torch.cat([bytes_of(a) - bytes_of(b) for (a, _), (b, _) in zip(full, half, strict=True)]).abs()
    assert 0.01 < levels.mean() < 0.25  # the mean error of rounding
    assert levels.max() < 2
    stored = [
        drawn_by_epoch("fixed", 20, 1, config=replace(CONFIG, precision=precision))
        for precision in ("float32", "bfloat16")
    ]
    assert torch.equal(stored[0][0][0], stored[1][0][0]), "a set has the generator's own precision"


@pytest.mark.parametrize("protocol", REAL)
def test_real_images_need_no_generator(protocol: str) -> None:
    assert len(drawn_by_epoch(protocol, 2, 1, generator=None)) == 1


@pytest.mark.parametrize("protocol", GENERATED)
def test_generated_images_do(protocol: str) -> None:
    with pytest.raises(ValueError, match=f"{protocol}.*generator"):
        make_stream(protocol, generator=None)
