"""What the tests of methods share: small images, batches, counts."""

import torch


def images(count=4, channels=1, size=32):
    """Noise (count, channels, size, size) in [-1, 1)."""
    return torch.rand(count, channels, size, size) * 2 - 1


def parameters(module):
    """How many parameters a module has."""
    return sum(p.numel() for p in module.parameters())
