"""Losses that several methods share, an equation each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def as_real(logits: Tensor) -> Tensor:
    """E[-log sigmoid(D)]: cross entropy of a critic's logits against the label 1."""
    return softplus(-logits.float()).mean()


def as_generated(logits: Tensor) -> Tensor:
    """E[-log(1 - sigmoid(D))]: cross entropy of a critic's logits against the label 0."""
    return softplus(logits.float()).mean()


def focus(m: Tensor) -> Tensor:
    """E[(mean m)^2 + mean 1 / (|m - 0.5| + 0.01) - 1 / 0.51], means over the pixels of a mask.

    Small masks, and values near 0 or 1: zero for an empty mask. From HealthyGAN's code; the thesis'
    eq. 2.12 has mean |m - 0.5| in place of the second part, which is least where m = 0.5.

    m: (B, 1, H, W) in [0, 1].
    """
    small = m.mean((1, 2, 3)).square()
    undecided = (1 / ((m - 0.5).abs() + 0.01)).mean((1, 2, 3)) - 1 / 0.51
    return (small + undecided).mean()


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


def wasserstein(D: nn.Module, real: Tensor, fake: Tensor, lambda_gp: float) -> dict[str, Tensor]:
    """D(fake) - D(real) + lambda_gp GP (thesis, eq. 2.8, 2.15, 2.27): the terms of a critic.

    real, fake: (B, C, H, W), fake without graph.
    """
    of_fake, of_real = D(torch.cat([fake, real])).chunk(2)
    return {
        "adversarial": of_fake.mean() - of_real.mean(),
        "penalty": lambda_gp * gradient_penalty(D.forward, real, fake),
    }
