"""A network with blocks, so that `params: last_block` means something."""

import torch
from torch import Tensor, nn


class Blocks(nn.Module):
    """Two blocks and a head, (B, n_in) -> (B, 3)."""

    def __init__(self, n_in: int):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Linear(n_in, 6), nn.Tanh()), nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh())
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))
