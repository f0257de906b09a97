"""A small vision transformer, made of torchvision's.

    network = vit_tiny(check_architecture("vit_tiny"), num_channels=3, num_classes=10, image_size=32)

That one has 5,362,762 parameters: ViT-Ti (Touvron et al., "Training data-efficient image transformers", arXiv
2012.12877) with patches of 4x4.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dim_ray.config import Architecture
from dim_ray.core.networks.initialise import initialise
from dim_ray.core.networks.sizes import pad

__all__ = ["vit_tiny"]

_PATCH = 4
_NUM_LAYERS = 12
_NUM_HEADS = 3
_EXPANSION = 4  # units of a hidden layer for each channel

# torchvision's, of position embeddings and of biases in hidden layers
_POSITION_STD = 0.02
_BIAS_STD = 1e-6


def vit_tiny(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lays out a transformer over patches of 4x4 pixels and a class token, without dropout.

    Images whose size is no multiple of 4 are padded evenly with zeros.

    Args:
        architecture: The width is that of a token, a multiple of the three heads (published: 192).
        num_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width of the images, in pixels.
    """
    from torchvision.models.vision_transformer import VisionTransformer  # takes two seconds; ConvNets don't need it

    padded, width = math.ceil(image_size / _PATCH) * _PATCH, architecture.width
    transformer = VisionTransformer(
        image_size=padded,
        patch_size=_PATCH,
        num_layers=_NUM_LAYERS,
        num_heads=_NUM_HEADS,
        hidden_dim=width,
        mlp_dim=_EXPANSION * width,
        num_classes=num_classes,
    )
    transformer.conv_proj = nn.Conv2d(num_channels, width, _PATCH, stride=_PATCH)
    return _PaddedTransformer(pad(image_size, padded), transformer)


class _PaddedTransformer(nn.Module):
    """torchvision's VisionTransformer for images of any size.

    Args:
        padding: To a multiple of the patch size.
        transformer: Of that size; torchvision is not typed.
    """

    def __init__(self, padding: nn.Module, transformer: Any) -> None:
        super().__init__()
        self.padding = padding
        self.transformer = transformer

    def forward(self, images: Tensor) -> Tensor:
        """Takes (B, C, H, W) normalised images to (B, K) logits."""
        logits: Tensor = self.transformer(self.padding(images))
        return logits

    @torch.no_grad()
    def initialise_weights(self, rng: torch.Generator) -> None:
        """Draws weights of the distributions that torchvision's constructor draws from; the last layer is zero."""
        transformer = self.transformer
        patches, encoder, head = transformer.conv_proj, transformer.encoder, transformer.heads.head
        nn.init.trunc_normal_(patches.weight, std=1 / math.sqrt(patches.weight[0].numel()), generator=rng)
        nn.init.normal_(encoder.pos_embedding, std=_POSITION_STD, generator=rng)
        for block in encoder.layers:
            for part in (block.ln_1, block.self_attention, block.ln_2):
                initialise(part, rng)
            for linear in (part for part in block.mlp if isinstance(part, nn.Linear)):
                nn.init.xavier_uniform_(linear.weight, generator=rng)
                nn.init.normal_(linear.bias, std=_BIAS_STD, generator=rng)
        initialise(encoder.ln, rng)
        for zero in (patches.bias, transformer.class_token, head.weight, head.bias):
            nn.init.zeros_(zero)
