import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit
from torch import nn

from nblib.methods.losses import as_generated, as_real, focus, gradient_penalty, wasserstein


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


# The critic's terms


@pytest.mark.parametrize("length, lambda_gp", [(1.0, 10.0), (3.0, 10.0), (0.5, 2.0)])
def test_a_linear_critics_terms_are_the_thesis_equation_in_numpy(length, lambda_gp):
    """Four patches, each the product of one 3 x 3 window: the gradient's norm is 2 |w|."""
    D = nn.Conv2d(1, 1, 3, 3, bias=False).double()
    with torch.no_grad():
        D.weight *= length / (2 * D.weight.norm())
    real, fake = images(5, 1)
    terms = wasserstein(D, real, fake, lambda_gp)
    w = D.weight.detach().numpy()[0, 0]

    def answers(x):
        windows = x.numpy().reshape(5, 2, 3, 2, 3)
        return np.einsum("biajc,ac->bij", windows, w)

    expected = {
        "adversarial": answers(fake).mean() - answers(real).mean(),
        "penalty": lambda_gp * (length - 1) ** 2,
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, abs=1e-9)


def test_less_is_better_for_a_critic_that_calls_real_images_large():
    """D(x) is the sum of an image's four pixels, whose gradient has the norm 2."""
    D = nn.Conv2d(1, 1, 2, bias=False)
    nn.init.ones_(D.weight)
    real, fake = torch.full((3, 1, 2, 2), 0.5), torch.full((3, 1, 2, 2), -0.25)
    terms = wasserstein(D, real, fake, 10.0)
    assert terms["adversarial"].item() == pytest.approx(-1 - 2)
    assert terms["penalty"].item() == pytest.approx(10)


def test_both_terms_move_the_critic():
    D = nn.Conv2d(1, 1, 3, 3, bias=False).double()
    for term in wasserstein(D, *images(2, 1), 10.0).values():
        (gradient,) = torch.autograd.grad(term, D.weight)
        assert gradient.abs().max() > 0


# Cross entropies


def test_cross_entropies_are_scipys():
    logits = 5 * torch.randn(3, 1, 4, 4, dtype=torch.float64)
    x = logits.numpy()
    assert as_real(logits).item() == pytest.approx(-log_expit(x).mean(), rel=1e-6)
    assert as_generated(logits).item() == pytest.approx(-log_expit(-x).mean(), rel=1e-6)


def test_a_critic_that_does_not_know_pays_the_logarithm_of_two():
    for loss in as_real, as_generated:
        assert loss(torch.zeros(5)).item() == pytest.approx(np.log(2))


def test_the_slopes_are_those_of_the_sigmoid():
    logits = torch.linspace(-6, 6, 9, requires_grad=True)
    (real,) = torch.autograd.grad(as_real(logits), logits)
    (generated,) = torch.autograd.grad(as_generated(logits), logits)
    sigmoid = expit(logits.detach().numpy())
    np.testing.assert_allclose(real, (sigmoid - 1) / 9, rtol=1e-4)
    np.testing.assert_allclose(generated, sigmoid / 9, rtol=1e-4)


@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
def test_extreme_logits_neither_overflow_nor_lose_their_slope(size):
    """-log sigmoid(-s) = s, and -log sigmoid(s) = 0; a critic that is sure and wrong still learns.

    A logarithm of a sigmoid would be infinite from 104 on in single precision.
    """
    for loss, wrong in ((as_real, -size), (as_generated, size)):
        logit = torch.tensor([wrong], requires_grad=True)
        loss(logit).backward()
        assert loss(logit).item() == pytest.approx(size)
        assert logit.grad.item() == pytest.approx(np.sign(wrong))
        assert loss(-logit.detach()).item() == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_cross_entropies_of_half_precision_logits_are_in_single_precision(kind):
    logits = (3 * torch.randn(7)).to(kind)
    for loss in as_real, as_generated:
        assert loss(logits).dtype == torch.float32
        assert loss(logits).item() == pytest.approx(loss(logits.float()).item(), rel=1e-6)


# Masks


def test_focus_is_its_formula_in_numpy():
    """The square is of each image's own mean: images of unlike masks tell the two apart."""
    m = (
        torch.rand(4, 1, 6, 8, dtype=torch.float64)
        ** torch.tensor([0.1, 1, 2, 9])[:, None, None, None]
    )
    x = m.numpy()
    each = [image.mean() ** 2 + (1 / (np.abs(image - 0.5) + 0.01)).mean() - 1 / 0.51 for image in x]
    assert focus(m).item() == pytest.approx(np.mean(each), rel=1e-9)
    assert np.std(x.mean((1, 2, 3))) > 0.2


@pytest.mark.parametrize("share, expected", [(0, 0), (0.25, 1 / 16), (0.5, 0.25), (1, 1)])
def test_a_mask_of_zeros_and_ones_pays_for_the_square_of_its_share_alone(share, expected):
    m = torch.zeros(3, 1, 4, 8)
    m[..., : round(8 * share)] = 1
    assert focus(m).item() == pytest.approx(expected, abs=1e-6)


def test_a_mask_of_one_half_is_the_dearest():
    """(1/2)^2 + 1 / 0.01 - 1 / 0.51."""
    half = focus(torch.full((2, 1, 4, 4), 0.5)).item()
    assert half == pytest.approx(0.25 + 100 - 1 / 0.51)
    others = [m for m in np.linspace(0, 1, 41) if m != 0.5]
    assert all(focus(torch.full((2, 1, 4, 4), float(m))).item() < half for m in others)
