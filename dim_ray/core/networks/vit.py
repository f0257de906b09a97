"""A small vision transformer, from torchvision's.

ViT-Ti (Touvron et al., "Training data-efficient image transformers", arXiv 2012.12877) with patches of 4x4 pixels:
5,362,762 parameters for 32 RGB pixels and 10 classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dim_ray.config import Architecture
from dim_ray.core.networks.initialise import initialise
from dim_ray.core.networks.layers import pad

__all__ = ["vit_tiny"]

_PATCH = 4
_NUM_LAYERS = 12
_NUM_HEADS = 3
_EXPANSION = 4  # hidden units per channel
_POSITION_STD = 0.02  # of position embeddings, as torchvision's
_BIAS_STD = 1e-6  # of biases in hidden layers, as torchvision's


def vit_tiny(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out a transformer over patches and a class token, without dropout.

    The width is a token's, a multiple of the three heads (published: 192). Images are padded evenly with zeros to a
    multiple of 4 pixels.
    """
    # Takes two seconds to import, and ConvNets don't need it.
    from torchvision.models.vision_transformer import VisionTransformer

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
    """torchvision's VisionTransformer for images of any size."""

    def __init__(self, padding: nn.Module, transformer: Any) -> None:  # torchvision is not typed
        super().__init__()
        self.padding = padding
        self.transformer = transformer

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.transformer(self.padding(images))
        return logits

    @torch.no_grad()
    def initialise_weights(self, rng: torch.Generator) -> None:
        """Draw weights from the distributions of torchvision's constructor; the last layer is zero."""
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
