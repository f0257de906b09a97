"""The method once more, slowly and plainly: one image at a time where images don't interact.

Random numbers come from the same streams, in the same order, as in the stages; everything else is computed differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dim_ray.config import MatchingConfig, PriorConfig
from dim_ray.core.data.augment import Augmentation, augment
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.generator.networks import Discriminator, Generator
from dim_ray.core.training.random import stream

Scores = tuple[Tensor, Tensor]


def order(stage: str, seed: int, epoch: int, num_images: int) -> Tensor:
    """Return the images of an epoch in their order."""
    return torch.randperm(num_images, generator=stream(seed, stage, "order", step=epoch))


def to_signed(images: Tensor) -> Tensor:
    return torch.tensor([value / 255 * 2 - 1 for value in images.flatten().tolist()]).view(images.shape)


def normalise(images: Tensor, dataset: Dataset) -> Tensor:
    """Normalise images in [0, 1] channel by channel."""
    channels = [
        (images[:, channel] - mean) / std
        for channel, (mean, std) in enumerate(zip(dataset.normalisation.mean, dataset.normalisation.std, strict=True))
    ]
    return torch.stack(channels, dim=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of -log of the label's softmax."""
    losses = [row.exp().sum().log() - row[label] for row, label in zip(logits, labels.tolist(), strict=True)]
    return torch.stack(losses).mean()


def log_softmax(logits: Tensor) -> Tensor:
    return torch.stack([row - row.exp().sum().log() for row in logits])


def judge(discriminator: Discriminator, images: Tensor, labels: Tensor) -> Scores:
    judged = [discriminator(image[None], label[None]) for image, label in zip(images, labels, strict=True)]
    return torch.stack([score[0] for score, _ in judged]), torch.stack([classes[0] for _, classes in judged])


def generate(generator: Generator, labels: Sequence[Tensor], rngs: Sequence[torch.Generator]) -> list[Tensor]:
    """Return the images of every worker, which share the statistics of batch norm."""
    noise = [torch.randn(len(own), generator.latent_dim, generator=rng) for own, rng in zip(labels, rngs, strict=True)]
    images: Tensor = generator(torch.cat(noise), torch.cat(list(labels)))
    return list(images.split([len(own) for own in labels]))


def discriminator_loss(
    discriminator: Discriminator,
    config: PriorConfig,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    number: int = 0,
    fake_labels: Tensor | None = None,
) -> Tensor:
    """Return L_D of the discriminator's step `number` since training began, for images (B, C, H, W) in [-1, 1].

    Generated images have the real ones' labels unless `fake_labels` are given.
    """
    fake_labels = labels if fake_labels is None else fake_labels
    changed = augment(torch.cat([real, fake]), config.augmentation, rng)
    real, fake = changed[: len(labels)], changed[len(labels) :]
    real_scores, real_classes = judge(discriminator, real, labels)
    fake_scores, fake_classes = judge(discriminator, fake, fake_labels)
    if config.loss == "hinge":
        loss = sum(max(1 - score, torch.zeros(())) for score in real_scores) / len(labels)
        loss = loss + sum(max(1 + score, torch.zeros(())) for score in fake_scores) / len(labels)
    elif config.loss == "relativistic":
        loss = relativistic(real_scores, fake_scores)
    else:
        loss = fake_scores.mean() - real_scores.mean()
    loss = loss + config.class_weight * cross_entropy(real_classes, labels)
    if config.class_loss_on == "both":
        loss = loss + config.class_weight * cross_entropy(fake_classes, fake_labels)
    weight = config.penalty_weight * config.gradient_penalty_every
    if number % config.gradient_penalty_every or not config.penalty_weight:
        return loss
    if config.loss == "relativistic":
        slopes = [slope(discriminator, *own) for own in zip(changed, torch.cat([labels, fake_labels]), strict=True)]
        return loss + weight * torch.stack([each**2 for each in slopes]).sum() / len(real) / 2
    shares = torch.rand(len(real), 1, 1, 1, generator=rng)
    penalties = []
    for index in range(len(real)):
        between = shares[index] * real[index] + (1 - shares[index]) * fake[index]
        penalties.append((slope(discriminator, between, labels[index]) - 1) ** 2)
    return loss + weight * torch.stack(penalties).mean()


def slope(discriminator: Discriminator, image: Tensor, label: Tensor) -> Tensor:
    """Return the length of the score's gradient at an image (C, H, W)."""
    image = image.detach().requires_grad_(True)
    (score,), _ = discriminator(image[None], label[None])
    (gradient,) = torch.autograd.grad(score, image, create_graph=True)
    return gradient.square().sum().sqrt()


def relativistic(higher: Tensor, lower: Tensor) -> Tensor:
    """Return -log of the probability that each score is higher than its partner, on average."""
    pairs = zip(higher, lower, strict=True)
    return -sum((torch.sigmoid(one - other).log() for one, other in pairs), torch.zeros(())) / len(higher)


def generator_loss(
    discriminator: Discriminator,
    config: PriorConfig,
    fake: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    real: tuple[Tensor, Tensor],
) -> Tensor:
    """Return L_G of generated images, beside real ones with their labels."""
    scores, classes = judge(discriminator, augment(fake, config.augmentation, rng), labels)
    if config.loss == "relativistic":
        real_scores, _ = judge(discriminator, augment(real[0], config.augmentation, rng), real[1])
        return config.class_weight * cross_entropy(classes, labels) + relativistic(scores, real_scores)
    return config.class_weight * cross_entropy(classes, labels) - scores.mean()


def matching_loss(
    drawn: Sequence[tuple[Augmentation, nn.Module]],
    config: MatchingConfig,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    dataset: Dataset,
) -> Tensor:
    """Return the mean distance over the drawn teachers, for real images as bytes and generated ones in [-1, 1]."""
    found = []
    for augmentation, teacher in drawn:
        halves = augmentation(normalise(real / 255, dataset)), augmentation(normalise((fake + 1) / 2, dataset))
        found.append(distance(config, teacher, *halves, labels))
    return torch.stack(found).mean()


def distance(config: MatchingConfig, teacher: nn.Module, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
    """Return the distance of the configuration's kind between normalised images (B, C, H, W)."""
    if config.kind == "features":
        layers = zip(*(activations(teacher, image) for image in real), strict=True)
        fake_layers = zip(*(activations(teacher, image) for image in fake), strict=True)
        between = unbiased_of_means if config.unbiased else of_means
        found = [between(list(ours), list(theirs), labels) for ours, theirs in zip(layers, fake_layers, strict=True)]
        return sum(found, torch.zeros(())) / len(found)
    if config.kind == "gradients":
        return of_gradients(image_gradients(teacher, real, labels), image_gradients(teacher, fake, labels))
    ours = [log_shares(config, teacher, image) for image in real]
    theirs = [log_shares(config, teacher, image) for image in fake]
    if config.kind == "logits":
        return torch.stack([((a - b) ** 2).mean() for a, b in zip(ours, theirs, strict=True)]).mean()
    total = (unbiased_of_means if config.unbiased else of_means)(ours, theirs, labels)
    if config.kind == "logit_moments":
        spread = [((variance(a) - variance(b)) ** 2).mean() for a, b in by_class(ours, theirs, labels) if len(a) > 1]
        total = total + (torch.stack(spread).mean() if spread else 0)
    return total


def by_class(ours: list[Tensor], theirs: list[Tensor], labels: Tensor) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Return the rows of each class in the batch."""
    groups: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
    for a, b, label in zip(ours, theirs, labels.tolist(), strict=True):
        group = groups.setdefault(label, ([], []))
        group[0].append(a.detach())
        group[1].append(b)
    return list(groups.values())


def of_means(ours: list[Tensor], theirs: list[Tensor], labels: Tensor) -> Tensor:
    """Return the mean over classes and features of the squared difference of means."""
    found = [((sum(a) / len(a) - sum(b) / len(b)) ** 2).mean() for a, b in by_class(ours, theirs, labels)]
    return torch.stack(found).mean()


def unbiased_of_means(ours: list[Tensor], theirs: list[Tensor], labels: Tensor) -> Tensor:
    """Return the same, without products of an image with itself."""
    ours, theirs = [row.double() for row in ours], [row.double() for row in theirs]  # most of it cancels
    found = [
        (mean_of_products(a, a) + mean_of_products(b, b) - 2 * sum(x * y for x in a for y in b) / len(a) ** 2).mean()
        for a, b in by_class(ours, theirs, labels)
        if len(a) > 1
    ]
    return torch.stack(found).mean().float() if found else torch.zeros(())


def mean_of_products(rows: list[Tensor], others: list[Tensor]) -> Tensor:
    products = [row * other for i, row in enumerate(rows) for j, other in enumerate(others) if i != j]
    return sum(products, torch.zeros(())) / len(products)


def variance(rows: list[Tensor]) -> Tensor:
    mean = sum(rows, torch.zeros(())) / len(rows)
    return sum(((row - mean) ** 2 for row in rows), torch.zeros(())) / (len(rows) - 1)


def log_shares(config: MatchingConfig, teacher: nn.Module, image: Tensor) -> Tensor:
    """Return the log-softmax (K,) of one image, with temperature and standardisation."""
    (logits,) = teacher(image[None])
    if config.standardised:
        logits = logits - logits.mean()
        logits = logits / (logits**2).mean().sqrt()
    return log_softmax(logits[None] / config.temperature)[0]


def activations(teacher: nn.Module, image: Tensor) -> list[Tensor]:
    """Return the flattened outputs of a network's ReLUs for one image, in their order."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, given, result: found.append(result.flatten().clone()))
        for module in teacher.modules()
        if isinstance(module, nn.ReLU)
    ]
    teacher(image[None])
    for hook in hooks:
        hook.remove()
    return found


def image_gradients(teacher: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the means over images of the gradients of every weight that isn't a vector."""
    weights = [parameter.requires_grad_(True) for parameter in teacher.parameters() if parameter.ndim > 1]
    found = [
        torch.autograd.grad(cross_entropy(teacher(image[None]), label[None]), weights, create_graph=True)
        for image, label in zip(images, labels, strict=True)
    ]
    return [sum(own, torch.zeros(())) / len(images) for own in zip(*found, strict=True)]


def of_gradients(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Return the mean over layers and rows of 1 - cos."""
    layers = []
    for a, b in zip(ours, theirs, strict=True):
        rows = [of_directions(x.detach().flatten(), y.flatten()) for x, y in zip(a, b, strict=True)]
        layers.append(torch.stack(rows).mean())
    return torch.stack(layers).mean()


def of_directions(a: Tensor, b: Tensor) -> Tensor:
    if min(a.norm(), b.norm()) > 1e-6:
        return 1 - (a / a.norm()) @ (b / b.norm())
    short = [x / max(x.norm(), torch.tensor(1e-6)) for x in (a, b)]
    return ((short[0] - short[1]) ** 2).sum() / 2


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters())))


@torch.no_grad()
def descend(module: nn.Module, steps: Iterable[Tensor], learning_rate: float) -> None:
    """Take one step of plain gradient descent."""
    for parameter, step in zip(module.parameters(), steps, strict=True):
        parameter.sub_(learning_rate * step)


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move an exponential moving average of the weights and their statistics; counters are the latest."""
    with torch.no_grad():
        for own, latest in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
            own.copy_(decay * own + (1 - decay) * latest if own.is_floating_point() else latest)


class Momentum:
    """Gradient descent with momentum and weight decay."""

    def __init__(self, module: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> None:
        self._module = module
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._velocities: list[Tensor] | None = None

    def step(self, loss: Tensor, *, rate: float = 1.0) -> None:
        with torch.no_grad():
            weights = list(self._module.parameters())
            found = [g + self._weight_decay * w for g, w in zip(gradients(loss, self._module), weights, strict=True)]
            before = self._velocities
            if before is None:
                self._velocities = found
            else:
                self._velocities = [self._momentum * v + g for v, g in zip(before, found, strict=True)]
            descend(self._module, self._velocities, rate * self._learning_rate)


class Adam:
    """Adam, from the paper."""

    def __init__(self, module: nn.Module, learning_rate: float, betas: tuple[float, float]) -> None:
        self._module = module
        self._learning_rate = learning_rate
        self._betas = betas
        self._moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in module.parameters()]
        self._count = 0

    def step(self, loss: Tensor) -> None:
        beta1, beta2 = self._betas
        self._count += 1
        steps = []
        for index, gradient in enumerate(gradients(loss, self._module)):
            first, second = self._moments[index]
            first = beta1 * first + (1 - beta1) * gradient
            second = beta2 * second + (1 - beta2) * gradient**2
            self._moments[index] = first, second
            corrected = second / (1 - beta2**self._count)
            steps.append(first / (1 - beta1**self._count) / (corrected.sqrt() + 1e-8))
        descend(self._module, steps, self._learning_rate)


Networks = tuple[Generator, Generator, Discriminator]


def prior_losses(
    networks: Networks, config: PriorConfig, dataset: Dataset, *, learning_rate: float, decay: float
) -> list[Mapping[str, float]]:
    """Train generator, average and discriminator in place with plain descent; return the losses of every step."""
    generator, average, discriminator = networks
    steps_per_epoch = len(dataset.train) // config.batch_size
    losses: list[Mapping[str, float]] = []
    num_discriminator_steps = 0
    for number in range(config.epochs * steps_per_epoch):
        epoch, index = divmod(number, steps_per_epoch)
        batch = order("prior", config.seed, epoch, len(dataset.train))[index * config.batch_size :][: config.batch_size]
        real, real_labels = to_signed(dataset.train.images[batch]), dataset.train.labels[batch]
        rng = stream(config.seed, "adversarial", 0, step=number)
        found: dict[str, float] = {}
        for network in turns(config):
            labels = real_labels
            if network == config.uniform_labels:
                labels = torch.randint(dataset.num_classes, (config.batch_size,), generator=rng)
            [fake] = generate(generator, [labels], [rng])
            if network == "discriminator":
                critic = discriminator_loss(
                    discriminator, config, real, fake.detach(), real_labels, rng, num_discriminator_steps, labels
                )
                num_discriminator_steps += 1
                descend(discriminator, gradients(critic, discriminator), learning_rate)
                found["discriminator_loss"] = critic.item()
            else:
                loss = generator_loss(discriminator, config, fake, labels, rng, (real, real_labels))
                descend(generator, gradients(loss, generator), learning_rate)
                follow(average, generator, min(decay, (1 + number) / (10 + number)))
                found["generator_loss"] = loss.item()
        losses.append(found)
    return losses


def turns(config: PriorConfig) -> list[str]:
    """Return whose steps a training step takes, in order."""
    critics = ["discriminator"] * config.discriminator_steps
    return [*critics, "generator"] if config.first == "discriminator" else ["generator", *critics]


Draw = Callable[[int, int], Sequence[tuple[Augmentation, nn.Module]]]
"""From rank and step to that worker's augmentations and teachers, if it has any."""


def matching_losses(
    networks: Networks,
    config: MatchingConfig,
    prior: PriorConfig,
    dataset: Dataset,
    draw: Draw,
    *,
    shard_weights: list[float],
    learning_rate: float,
    decay: float,
) -> tuple[list[list[Mapping[str, float]]], dict[str, Tensor]]:
    """Train in place with plain descent: one worker per shard weight, one after another.

    Returns:
        The losses of every worker, of every step; and the last step's gradients, means over the workers.
    """
    generator, moving, discriminator = networks
    share = config.batch_size // len(shard_weights)
    steps_per_epoch = len(dataset.train) // config.batch_size
    losses: list[list[Mapping[str, float]]] = []
    last: dict[str, Tensor] = {}
    num_discriminator_steps = 0
    for number in range(config.epochs * steps_per_epoch):
        epoch, index = divmod(number, steps_per_epoch)
        whole = order("matching", config.seed, epoch, len(dataset.train))[index * config.batch_size :]
        streams = [stream(config.seed, "matching", rank, step=number) for rank in range(len(shard_weights))]
        batches = [whole[rank * share : (rank + 1) * share] for rank in range(len(shard_weights))]
        all_labels = [dataset.train.labels[batch] for batch in batches]
        found: list[dict[str, float]] = [{} for _ in streams]
        for network in turns(prior):
            drawn_labels = all_labels
            if network == prior.uniform_labels == "discriminator":
                drawn_labels = [torch.randint(dataset.num_classes, (share,), generator=rng) for rng in streams]
            fakes = generate(generator, drawn_labels, streams)
            totals = []
            for rank, (rng, batch, labels, fake) in enumerate(zip(streams, batches, all_labels, fakes, strict=True)):
                images = dataset.train.images[batch]
                if network == "discriminator":
                    critic = discriminator_loss(
                        discriminator,
                        prior,
                        to_signed(images),
                        fake.detach(),
                        labels,
                        rng,
                        num_discriminator_steps,
                        drawn_labels[rank],
                    )
                    found[rank]["discriminator_loss"] = critic.item()
                    totals.append(critic)
                    continue
                adversarial = generator_loss(discriminator, prior, fake, labels, rng, (to_signed(images), labels))
                total = config.adversarial_weight * adversarial
                found[rank]["generator_loss"] = adversarial.item()
                drawn = draw(rank, number)
                if drawn:
                    matched = matching_loss(drawn, config, images, fake, labels, dataset)
                    total = total + config.weight * shard_weights[rank] * matched
                    found[rank]["matching_loss"] = matched.item()
                totals.append(total)
            module = discriminator if network == "discriminator" else generator
            means = gradients(sum(totals, torch.zeros(())) / len(totals), module)
            descend(module, means, learning_rate)
            last |= zip([f"{network}.{name}" for name, _ in module.named_parameters()], means, strict=True)
            if network == "discriminator":
                num_discriminator_steps += 1
            else:
                follow(moving, generator, decay)
        losses.append(found)
    return losses, last
