import pytest
import torch
from torch import nn

from nblib.losses import gradient_penalty


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(count, channels=2, size=6):
    shape = count, channels, size, size
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
def test_a_linear_critic_pays_the_square_of_its_lengths_distance_from_one(length):
    w = torch.randn(2, 6, 6, dtype=torch.float64)
    w *= length / w.norm()
    penalty = gradient_penalty(lambda x: (w * x).sum((1, 2, 3)), *images(5))
    assert penalty.item() == pytest.approx((length - 1) ** 2, abs=1e-12)


def test_the_gradient_is_that_of_the_sum_over_all_outputs_of_a_patch_critic():
    """Four outputs that see a quarter of the image each: the sum has all their gradients."""
    w = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    penalty = gradient_penalty(lambda x: nn.functional.conv2d(x, w, stride=3), *images(4, 1))
    assert penalty.item() == pytest.approx((2 * w.norm().item() - 1) ** 2)


def half_square(x):
    """A critic whose gradient at x is x itself."""
    return x.square().sum((1, 2, 3)) / 2


def test_a_quadratic_critic_pays_for_the_norm_over_all_pixels_of_each_image():
    """With real = fake the point between them is known: the image itself."""
    x, _ = images(3)
    x *= torch.tensor([0.1, 1.0, 4.0])[:, None, None, None]
    expected = ((x.flatten(1).square().sum(1).sqrt() - 1) ** 2).mean()
    assert gradient_penalty(half_square, x, x).item() == pytest.approx(expected.item())


def test_each_image_has_one_uniform_weight_between_real_and_generated():
    """The critic sees 1 a + 0 (1 - a) = a in every pixel of an image."""
    seen = []

    def D(x):
        seen.append(x.detach())
        return half_square(x)

    ones, zeros = torch.ones(2000, 2, 4, 4), torch.zeros(2000, 2, 4, 4)
    gradient_penalty(D, ones, zeros)
    a = seen[0].flatten(1)
    assert torch.equal(a, a[:, :1].expand_as(a))
    a = a[:, 0]
    assert a.min() >= 0 and a.max() <= 1
    assert a.unique().numel() > 1900
    counts = torch.histc(a, 10, 0, 1)
    assert (counts - 200).abs().max() < 5 * 200**0.5


def test_real_and_generated_take_opposite_weights():
    """On the line between two images the mix is a real + (1 - a) fake, never beyond."""
    real, fake = images(50)
    seen = []

    def D(x):
        seen.append(x.detach())
        return half_square(x)

    gradient_penalty(D, real, fake)
    line = (real - fake).flatten(1)
    moved = (seen[0] - fake).flatten(1)
    a = (moved * line).sum(1) / line.square().sum(1)
    assert a.min() >= 0 and a.max() <= 1 and a.std() > 0.2
    torch.testing.assert_close(moved, a[:, None] * line)


def test_the_gradient_with_respect_to_weights_is_that_of_finite_differences():
    D = nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1), nn.Softplus(), nn.Conv2d(3, 1, 3, bias=False)
    ).double()
    real, fake = images(3, channels=1)

    def penalty():
        torch.manual_seed(5)
        return gradient_penalty(D, real, fake)

    weights = [D[0].weight, D[0].bias, D[2].weight]
    gradients = torch.autograd.grad(penalty(), weights)
    h = 1e-6
    for weight, gradient in zip(weights, gradients, strict=True):
        flat = weight.data.view(-1)
        for i in range(0, len(flat), 5):
            values = []
            for change in h, -2 * h:
                flat[i] += change
                values.append(penalty().item())
            flat[i] += h
            slope = (values[0] - values[1]) / (2 * h)
            assert gradient.view(-1)[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert all(gradient.abs().max() > 1e-4 for gradient in gradients)


def test_the_images_get_no_gradient():
    w = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)
    real, fake = images(2)
    gradient_penalty(lambda x: (w * x).sum((1, 2, 3)), real, fake).backward()
    assert w.grad is not None and real.grad is None and fake.grad is None
    assert not real.requires_grad and not fake.requires_grad
