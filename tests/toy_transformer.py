"""A small vision transformer as other libraries have them: a class token, patch tokens, blocks, no mmdet and no mmseg."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ToyTransformer(nn.Module):
    """Images (N, 3, H, W) to class scores; sides must be multiples of the patch, as those of a network without padding."""

    def __init__(self, width: int, depth: int, patch: int, classes: int) -> None:
        super().__init__()
        self.patch = patch
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2] % self.patch or images.shape[-1] % self.patch:
            raise ValueError(f"sides must be multiples of {self.patch}, got {tuple(images.shape)}")
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


def make_transformer(width: int = 16, depth: int = 2, patch: int = 14, classes: int = 5, seed: int = 0) -> nn.Module:
    """A network whose weights depend on `seed` alone."""
    torch.manual_seed(seed)
    return ToyTransformer(width, depth, patch, classes)


def make_convolutions() -> nn.Module:
    """A network that is a plain sequence and gives maps."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def make_nothing() -> int:
    return 3
