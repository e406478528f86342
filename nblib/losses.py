"""Losses that several methods share, an equation each."""

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_penalty(D: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E[(|grad D(x)|_2 - 1)^2] at x = a real + (1 - a) fake, a ~ U(0, 1) for each image.

    Gulrajani et al. 2017, eq. 3 (the thesis' eq. 2.27). The gradient is that of the sum over D's
    outputs, its norm is taken over all pixels of an image. Pass `critic.forward`, not the critic,
    where it may be compiled: torch.compile has no double backward.

    real, fake: (B, C, H, W) without graph.
    """
    a = torch.rand(len(real), 1, 1, 1, device=real.device)
    x = (a * real + (1 - a) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
