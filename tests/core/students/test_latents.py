from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dim_ray.config import MatchingConfig
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.generator.distances import ImagePairs, feature_distance
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.students.images import TeacherHelp, balanced_labels
from dim_ray.core.students.latents import LatentMatching
from dim_ray.core.teachers.pool import DrawnTeacher, StoredPool
from dim_ray.core.teachers.teacher import Teacher
from dim_ray.core.training.random import stream
from tests.helpers.tiny import ARCHITECTURE
from tests.helpers.tiny_students import CONFIG, DATASET, make_generator, make_stream


def make_teacher(seed: int = 0) -> Teacher:
    weights = build_network(ARCHITECTURE, DATASET, stream(seed, "teacher")).state_dict()
    return Teacher(architecture=ARCHITECTURE, snapshots=[weights], steps=[1], validation_accuracy=0.5)


def matching(steps: int, dataset: Dataset = DATASET) -> LatentMatching:
    pool = StoredPool([make_teacher(0), make_teacher(1)], dataset)
    return LatentMatching(pool, dataset, augmentation="none", steps=steps, precision="float32")


def distance_to_real(latents: Tensor, labels: Tensor) -> float:
    """Return the distance of the class means of a set's features from those of all real images."""
    network = build_network(ARCHITECTURE, DATASET, stream(0)).eval()
    train = DATASET.train
    real = DATASET.normalisation.from_bytes(train.images[train.labels.argsort(stable=True)])
    generated = DATASET.normalisation.from_signed(make_generator().eval()(latents, labels))
    times = len(train) // len(labels)
    pairs = ImagePairs(
        real=real,
        generated=generated.repeat_interleave(times, dim=0),
        labels=labels.repeat_interleave(times),
        num_classes=DATASET.num_classes,
    )
    teacher = DrawnTeacher(network=network, tensors=make_teacher().snapshots[0])
    with torch.no_grad():
        return float(feature_distance(teacher, pairs, MatchingConfig()))


def test_teachers_see_the_set_nearer_to_real_images_than_before() -> None:
    labels = balanced_labels(3, 2)
    noise = make_generator().noise(len(labels), stream(5))
    moved = matching(60)(make_generator(), noise, labels, seed=0)
    assert distance_to_real(moved, labels) < 0.8 * distance_to_real(noise, labels)


def test_no_step_leaves_the_noise_and_the_same_seed_moves_it_alike() -> None:
    labels = balanced_labels(3, 2)
    noise = make_generator().noise(len(labels), stream(5))
    assert torch.equal(matching(0)(make_generator(), noise, labels, seed=0), noise)
    first, same, other = (matching(3)(make_generator(), noise, labels, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_generator_stays_as_it_is() -> None:
    generator, labels = make_generator(), balanced_labels(3, 2)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    matching(3)(generator, generator.noise(6, stream(5)), labels, seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_students_see_the_images_of_the_moved_latents() -> None:
    config = replace(CONFIG, latent_steps=3)
    with pytest.raises(ValueError, match="latents are matched with teachers"):
        make_stream("fixed", config)
    images, labels = make_stream("fixed", config, teachers=TeacherHelp(match=matching(3)))(0)
    noise = make_generator().noise(len(labels), stream(0, "images", step=0))
    moved = matching(3)(make_generator(), noise, labels, seed=0)
    expected = DATASET.normalisation.from_signed(make_generator().eval()(moved, labels))
    torch.testing.assert_close(images, expected, atol=0.02, rtol=0)  # stored as bytes
    plain, _ = make_stream("fixed")(0)
    assert not torch.equal(images, plain)
    made_on_the_fly, _ = make_stream("on_the_fly", config.recipe("on_the_fly", 1))(0)
    assert torch.equal(made_on_the_fly, make_stream("on_the_fly")(0)[0])
