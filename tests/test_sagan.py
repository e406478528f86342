import copy
import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as f

from nblib.batches import Batch
from nblib.encodings import BinaryCode
from nblib.losses import wasserstein
from nblib.methods.method import detect_all
from nblib.methods.sagan import AUTHORS_NAMES, SAGAN, Generator, load_authors_checkpoint

SMALL = dict(size=32, width=4, critic_width=4, critic_layers=4, batch_size=4, steps=8)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def generator(**arguments):
    return Generator(**(dict(size=32, width=4, blocks=2) | arguments))


def images(count=4, channels=1, size=32):
    return torch.rand(count, channels, size, size) * 2 - 1


def batch(channels=1):
    return Batch(images(4, channels), images(4, channels), images(4, channels))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


# What it is made of


def test_the_published_generator_has_the_published_number_of_parameters():
    with torch.device("meta"):
        G = Generator(size=64, channels=1, width=64, grid=2)
    assert parameters(G) == 44_758_979


def test_the_published_model_has_the_published_settings():
    settings = {k: p.default for k, p in inspect.signature(SAGAN).parameters.items()}
    assert settings["width"] == 64 and settings["grid"] == 2 and settings["batch_size"] == 32
    assert settings["lr"] == 5e-5 and settings["steps"] == 100_000 and settings["decay"] == 1
    for optimizer in SAGAN(**SMALL).optimizers().values():
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)
        assert optimizer.param_groups[0]["lr"] == 5e-5


def test_each_layer_has_the_parameters_that_one_counts_by_hand():
    """Width 4, three channels, 2 x 2 patches: codes of three bits.

    A convolution has in x out x kernel^2 weights, an affine norm two numbers a channel.
    """

    def normed(cin, cout, kernel):
        return cin * cout * kernel**2 + 2 * cout

    def biased(cin, cout):
        return cin * cout + cout

    def gate(channels):
        half = channels // 2
        return 2 * biased(channels, half) + biased(half, 1)

    def fuse(cin, cout):
        return normed(cin, cout, 3) + normed(cout, cout, 3)

    G = generator(channels=3, width=4, blocks=6)
    e, d = G.encoder, G.decoder
    counted = {
        e.stem: normed(3, 4, 7),
        e.down1: normed(4, 8, 4),
        e.place1: biased(8 + 3, 8),
        e.down2: normed(8, 16, 4),
        e.place2: biased(16 + 3, 16),
        e.down3: normed(16, 32, 4),
        G.bottleneck: biased(32 + 3, 32) + 6 * 2 * normed(32, 32, 3),
        d.gate1: gate(32),
        d.fuse1: fuse(64, 32),
        d.up1: normed(32, 16, 4),
        d.gate2: gate(16),
        d.fuse2: fuse(32, 16),
        d.up2: normed(16, 8, 4),
        d.gate3: gate(8),
        d.fuse3: fuse(16, 8),
        d.up3: normed(8, 4, 4),
        d.widen1: normed(16, 8, 4) + normed(8, 4, 4),
        d.widen2: normed(8, 4, 4),
        d.fuse: fuse(12, 4),
        d.head: 4 * 3 * 7**2,
    }
    assert [parameters(part) for part in counted] == list(counted.values())
    assert parameters(G) == sum(counted.values())


@pytest.mark.parametrize(
    "size, grid, channels",
    [(32, 2, 1), (32, 2, 3), (48, 2, 1), (64, 4, 1), (16, 1, 1), (24, 1, 3), (48, 3, 1)],
)
@pytest.mark.parametrize("place_acts", [False, True])
def test_possible_sizes_grids_and_channels_work(size, grid, channels, place_acts):
    G = generator(size=size, grid=grid, channels=channels, width=2, place_acts=place_acts)
    x = images(3, channels, size)
    restored = G(x)
    assert restored.shape == x.shape
    assert restored.abs().max() <= 1 and restored.isfinite().all()


@pytest.mark.parametrize("size, grid", [(60, 2), (16, 2), (32, 4), (8, 1), (64, 3)])
def test_an_impossible_size_is_refused_with_sizes_that_are_possible(size, grid):
    with pytest.raises(ValueError, match=f"got {size}") as error:
        generator(size=size, grid=grid)
    listed = re.search(r"\((\d+), (\d+), (\d+), ", str(error.value))
    for possible in map(int, listed.groups()):
        assert generator(size=possible, grid=grid, width=2)(images(1, 1, possible)).isfinite().all()


def test_patches_pass_the_network_apart_from_each_other():
    G = generator().eval()
    x = images(1)
    other = x.clone()
    other[..., :16, 16:] = images(1)[..., :16, 16:]
    changed = (G(x) != G(other))[0, 0]
    assert changed[:16, 16:].all()
    changed[:16, 16:] = False
    assert not changed.any()


def test_without_cutting_every_pixel_hears_of_every_other():
    G = generator(grid=1).eval()
    x = images(1)
    other = x.clone()
    other[..., 0, 0] += 1
    assert (G(x) != G(other)).float().mean() > 0.99


# Places


@pytest.mark.parametrize("place_acts, least, most", [(False, 0, 1e-4), (True, 1e-3, 2)])
def test_swapped_codes_change_the_image_only_where_the_code_acts(place_acts, least, most):
    G, x = generator(place_acts=place_acts).eval(), images()
    with torch.no_grad():
        before = G(x)
        codes = {id(m): m for m in G.modules() if isinstance(m, BinaryCode)}
        assert codes
        for place in codes.values():
            place.code.copy_(place.code[[3, 0, 1, 2]])
        assert least <= (G(x) - before).abs().max() <= most


def test_without_a_place_the_published_generator_gives_the_same_images():
    with_place, without = generator().eval(), generator(place=None).eval()
    state = with_place.state_dict()
    for name, theirs in without.state_dict().items():
        if name.endswith("mix.weight"):
            assert state[name].shape[1] == theirs.shape[1] + 3
            state[name] = state[name][:, : theirs.shape[1]]
    without.load_state_dict(state)
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(without(x), with_place(x), rtol=0, atol=1e-4)


# The random mask of training


def test_in_training_one_pixel_in_twenty_shows_the_input():
    """Where r is replaced by x the output is tanh(2 x), in all channels of a pixel alike."""
    G, x = generator(channels=3), images(16, 3)
    with torch.no_grad():
        replaced = (G.train()(x) - torch.tanh(2 * x)).abs() < 1e-6
    everywhere = replaced.all(1)
    assert torch.equal(everywhere, replaced.sum(1) >= 2)
    assert everywhere.float().mean().item() == pytest.approx(0.05, abs=0.006)
    assert everywhere.flatten(1).float().mean(1).std() > 0, "each image has a mask of its own"


def test_in_training_the_other_pixels_are_those_of_scoring():
    G, x = generator(), images()
    with torch.no_grad():
        scored, trained = G.eval()(x), G.train()(x)
    kept = (trained - torch.tanh(2 * x)).abs() >= 1e-6
    torch.testing.assert_close(trained[kept], scored[kept])


def test_scoring_has_no_chance_in_it():
    G, x = generator().eval(), images()
    with torch.no_grad():
        assert torch.equal(G(x), G(x))
    assert ((G(x) - torch.tanh(2 * x)).abs() < 1e-6).float().mean() < 1e-3


# Losses


def test_the_generators_terms_are_the_thesis_equation_in_numpy():
    method = SAGAN(**SMALL, lambda_id=2.0, lambda_rec=3.0).eval()
    n, u, p = batch()
    with torch.no_grad():
        terms = method.generator_terms(Batch(n, u, p))
        critic = method.D(method.G(u)).numpy()
        n_healthy, p_healthy = method.G(n).numpy(), method.G(p).numpy()
    expected = {
        "adversarial": -critic.mean(),
        "identity": 2 * np.abs(n.numpy() - n_healthy).mean(),
        "reconstruction": 3 * ((n.numpy() - p_healthy) ** 2).mean(),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_the_critics_terms_are_the_thesis_equation_in_numpy():
    method = SAGAN(**SMALL, lambda_gp=7.0).eval()
    normal, unlabeled, pseudo = batch()
    torch.manual_seed(11)
    name, terms = next(method.updates(Batch(normal, unlabeled, pseudo), 0))
    with torch.no_grad():
        healthy = method.G(unlabeled)
        real, fake = method.D(normal).numpy(), method.D(healthy).numpy()
    torch.manual_seed(11)
    a = torch.rand(4, 1, 1, 1)
    norms = []
    for i in range(4):
        x = (a[i] * normal[i] + (1 - a[i]) * healthy[i])[None].requires_grad_()
        method.D(x).sum().backward()
        norms.append(np.sqrt((x.grad.numpy() ** 2).sum()))
    expected = {
        "adversarial": fake.mean() - real.mean(),
        "penalty": 7 * ((np.array(norms) - 1) ** 2).mean(),
    }
    assert name == "D"
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_critic_learns_to_call_normal_images_large_and_generated_ones_small():
    method = SAGAN(**SMALL)
    normal, healthy = images() * 0.1 + 0.5, images() * 0.1 - 0.5
    optimizer = torch.optim.Adam(method.D.parameters(), 1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        sum(wasserstein(method.D, normal, healthy, method.lambda_gp).values()).backward()
        optimizer.step()
    assert method.D(normal).mean() > method.D(healthy).mean() + 0.5


def test_the_critics_update_has_no_graph_into_the_generator():
    method = SAGAN(**SMALL)
    _, terms = next(method.updates(batch(), 0))
    sum(terms.values()).backward()
    assert all(p.grad is None for p in method.G.parameters())
    assert all(p.grad is not None for p in method.D.parameters())


def test_the_critic_is_updated_twice_for_one_update_of_the_generator():
    method = SAGAN(**SMALL)
    order = [[name for name, _ in method.updates(batch(), step)] for step in range(4)]
    assert order == [["D"], ["D", "G"], ["D"], ["D", "G"]]


def test_the_generators_loss_is_computed_with_the_critic_already_updated():
    method, data = SAGAN(**SMALL).eval(), batch()
    updates = method.updates(data, 1)
    before = method.D(method.G(data.unlabeled)).mean().item()
    next(updates)
    with torch.no_grad():
        for weight in method.D.parameters():
            weight += 0.1 * torch.randn_like(weight)
    after = method.D(method.G(data.unlabeled)).mean().item()
    _, terms = next(updates)
    assert terms["adversarial"].item() == pytest.approx(-after, rel=1e-4)
    assert abs(after - before) > 0.01 * abs(after)


def test_a_few_dozen_steps_let_the_reconstruction_loss_fall():
    method = SAGAN(**SMALL, lr=5e-3)
    ramp = torch.linspace(-0.8, 0.8, 32)[:, None].expand(32, 32)
    normal = torch.stack([ramp, 0.5 * ramp])[:, None]
    pseudo = normal.clone()
    pseudo[..., 8:20, 10:22] = 0.9
    data, optimizers, losses = Batch(normal, pseudo, pseudo), method.optimizers(), []
    for step in range(44):
        for name, terms in method.updates(data, step):
            optimizers[name].zero_grad()
            own = [p for group in optimizers[name].param_groups for p in group["params"]]
            sum(terms.values()).backward(inputs=own)
            optimizers[name].step()
            if name == "G":
                losses.append(terms["reconstruction"].item())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


# What it says of an image


def test_the_map_is_half_the_change_and_the_score_its_mean():
    method, x = SAGAN(**SMALL, channels=3).eval(), images(3, 3)
    with torch.no_grad():
        found, restored = method.detect(x), method.G(x).numpy()
    expected = np.abs(x.numpy() - restored).mean(1) / 2
    np.testing.assert_allclose(found.map.numpy(), expected, atol=1e-6)
    score = found.scores["residual"].numpy()
    np.testing.assert_allclose(score, expected.mean((1, 2)), rtol=1e-5)


def test_gate_maps_are_pasted_together_deepest_first_and_leave_no_hooks():
    method, x = SAGAN(**SMALL).eval(), images(3)
    with torch.no_grad():
        plain = method.G(x)
        maps = method.gate_maps(x)
        again = method.G(x)
    assert [tuple(m.shape) for m in maps] == [(3, 4, 4), (3, 8, 8), (3, 16, 16)]
    for gate in maps:
        assert gate.min() > 0 and gate.max() < 1
        quadrants = gate.unflatten(1, (2, -1)).unflatten(3, (2, -1)).mean((2, 4))
        assert (quadrants - 0.5).abs().max() < 0.15
    assert torch.equal(plain, again)
    assert not any(m._forward_hooks for m in method.modules())


def test_gate_maps_are_what_the_gates_let_through():
    method, x = SAGAN(**SMALL | dict(grid=1)).eval(), images(2)
    seen = []
    gates = [method.G.decoder.gate1, method.G.decoder.gate2, method.G.decoder.gate3]
    hooks = [
        g.register_forward_hook(lambda g, inputs, out: seen.append((inputs[1], out))) for g in gates
    ]
    with torch.no_grad():
        maps = method.gate_maps(x)
    for hook in hooks:
        hook.remove()
    for gate, (skip, passed) in zip(maps, seen, strict=True):
        torch.testing.assert_close(skip * gate[:, None], passed)


def test_no_hooks_are_left_where_the_gate_maps_fail():
    method = SAGAN(**SMALL)
    with pytest.raises(RuntimeError):
        method.gate_maps(images(1, channels=2))
    assert not any(m._forward_hooks for m in method.modules())


def test_scores_are_the_same_whatever_mode_the_method_is_in():
    method = SAGAN(**SMALL)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), np.uint8)
    scores = [detect_all(m, pictures).scores["residual"] for m in (method.train(), method.eval())]
    assert np.array_equal(*scores)


# The authors' checkpoints


class TheirBlock(nn.Module):
    """Layers in a row under a name of their own, as in the table of layers."""

    def __init__(self, *layers):
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x):
        return self.main(x)


def tracked(channels):
    return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)


def their_conv(cin, cout, kernel, stride, padding):
    return TheirBlock(
        nn.Conv2d(cin, cout, kernel, stride, padding, bias=False), tracked(cout), nn.ReLU()
    )


def their_up(cin, cout):
    return [nn.ConvTranspose2d(cin, cout, 4, 2, 1, bias=False), tracked(cout), nn.ReLU()]


class TheirResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), tracked(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), tracked(channels),
        )  # fmt: skip

    def forward(self, x):
        return x + self.main(x)


class TheirFuse(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(cin, cout, 3, 1, 1, bias=False), tracked(cout))
        self.b = nn.Sequential(nn.Conv2d(cout, cout, 3, 1, 1, bias=False), tracked(cout))

    def forward(self, x):
        h = f.relu(self.a(x))
        return h + self.b(h)


class TheirGate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.W_g = nn.Sequential(nn.Conv2d(c, c // 2, 1), nn.InstanceNorm2d(c // 2))
        self.W_x = nn.Sequential(nn.Conv2d(c, c // 2, 1), nn.InstanceNorm2d(c // 2))
        self.psi = nn.Sequential(nn.Conv2d(c // 2, 1, 1), nn.InstanceNorm2d(1), nn.Sigmoid())

    def forward(self, g, x):
        return x * self.psi(f.relu(self.W_g(g) + self.W_x(x)))


class TheirGenerator(nn.Module):
    """The generator of the table of layers in plain torch, with the authors' names of modules."""

    def __init__(self, w=4, blocks=6):
        super().__init__()
        self.layer1 = their_conv(1, w, 7, 1, 3)
        self.enc_layer1 = their_conv(w, 2 * w, 4, 2, 1)
        self.p_bn1 = self.acm(2 * w)
        self.enc_layer2 = their_conv(2 * w, 4 * w, 4, 2, 1)
        self.p_bn2 = self.acm(4 * w)
        self.enc_layer3 = their_conv(4 * w, 8 * w, 4, 2, 1)
        residuals = [TheirResidual(8 * w) for _ in range(blocks)]
        self.bn2 = TheirBlock(*self.acm(8 * w).main, *residuals)
        self.gate1, self.dec_bn1 = TheirGate(8 * w), TheirFuse(16 * w, 8 * w)
        self.dec_layer1 = TheirBlock(*their_up(8 * w, 4 * w))
        self.up_conv1 = TheirBlock(*their_up(4 * w, 2 * w), *their_up(2 * w, w))
        self.gate2, self.dec_bn2 = TheirGate(4 * w), TheirFuse(8 * w, 4 * w)
        self.dec_layer2 = TheirBlock(*their_up(4 * w, 2 * w))
        self.up_conv2 = TheirBlock(*their_up(2 * w, w))
        self.gate3, self.dec_bn3 = TheirGate(2 * w), TheirFuse(4 * w, 2 * w)
        self.dec_layer3 = TheirBlock(*their_up(2 * w, w))
        self.bn3 = TheirFuse(3 * w, w)
        self.conv = nn.Conv2d(w, 1, 7, 1, 3, bias=False)
        for module in self.modules():
            if isinstance(module, nn.InstanceNorm2d) and module.affine:
                nn.init.normal_(module.weight, 1, 0.2)
                nn.init.normal_(module.bias, 0, 0.2)

    @staticmethod
    def acm(channels):
        return TheirBlock(
            nn.Conv2d(channels + 3, channels, 1), nn.InstanceNorm2d(channels), nn.ReLU()
        )

    @staticmethod
    def with_code(x):
        codes = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1.0]])
        planes = codes.repeat(len(x) // 4, 1)[:, :, None, None] * torch.ones_like(x[:, :3])
        return torch.cat([x, planes], 1)

    def forward(self, x):
        b, half = len(x), x.shape[-1] // 2
        unfolded = f.unfold(x, half, stride=half)  # (b, pixels, patches), patches row by row
        patches = unfolded.transpose(1, 2).reshape(b * 4, 1, half, half)
        s1 = self.p_bn1(self.with_code(self.enc_layer1(self.layer1(patches))))
        s2 = self.p_bn2(self.with_code(self.enc_layer2(s1)))
        e = self.bn2(self.with_code(self.enc_layer3(s2)))
        o1 = self.dec_layer1(self.dec_bn1(torch.cat([e, self.gate1(e, e)], 1)))
        o2 = self.dec_layer2(self.dec_bn2(torch.cat([o1, self.gate2(o1, s2)], 1)))
        o3 = self.dec_layer3(self.dec_bn3(torch.cat([o2, self.gate3(o2, s1)], 1)))
        r = self.conv(self.bn3(torch.cat([self.up_conv1(o1), self.up_conv2(o2), o3], 1)))
        healthy = torch.tanh(r + patches).reshape(b, 4, half * half).transpose(1, 2)
        return f.fold(healthy, x.shape[-2:], half, stride=half)


@pytest.fixture
def theirs():
    return TheirGenerator().train()


def saved(state, folder):
    torch.save(state, folder / "100000-G.ckpt")
    return folder / "100000-G.ckpt"


def test_the_authors_generator_gives_our_images_from_its_checkpoint(theirs, tmp_path):
    x = images(3).double()
    with torch.no_grad():
        theirs(images(2) + 1)  # their running statistics are not those of x
        file = saved(theirs.state_dict(), tmp_path)
        expected = theirs.double()(x)
    G = Generator(size=32, width=4).eval()
    assert parameters(G) == parameters(theirs)
    load_authors_checkpoint(G, file)
    # In double precision: norms over maps of 2 x 2 pixels blow up single precision's rounding.
    with torch.no_grad():
        torch.testing.assert_close(G.double()(x), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


def test_every_module_of_ours_has_one_name_of_theirs(theirs):
    assert set(AUTHORS_NAMES) == {name for name, _ in theirs.named_children()}
    ours = [Generator(size=32, width=4).get_submodule(name) for name in AUTHORS_NAMES.values()]
    assert sum(parameters(m) for m in ours) == parameters(Generator(size=32, width=4))


def without(state, start):
    return {k: v for k, v in state.items() if not k.startswith(start)}


SPOILS = {
    "a tensor of another shape": (
        lambda s: s | {"gate2.psi.0.weight": torch.zeros(1, 9, 1, 1)},
        "gate2",
    ),
    "a missing module": (lambda s: without(s, "dec_layer2."), "dec_layer2"),
    "a missing tensor": (lambda s: without(s, "bn3.b.1.bias"), "bn3"),
    "a surplus module": (lambda s: s | {"attention.0.weight": torch.zeros(2)}, "attention"),
    "a surplus tensor": (lambda s: s | {"conv.bias": torch.zeros(1)}, "conv"),
    "another width": (lambda s: TheirGenerator(w=6).state_dict(), "layer1"),
    "fewer residual blocks": (lambda s: TheirGenerator(blocks=5).state_dict(), "bn2"),
}


@pytest.mark.parametrize("spoil, named", SPOILS.values(), ids=SPOILS.keys())
def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(
    theirs, tmp_path, spoil, named
):
    file = saved(spoil(theirs.state_dict()), tmp_path)
    G = Generator(size=32, width=4)
    before = copy.deepcopy(G.state_dict())
    with pytest.raises(ValueError, match=rf"{re.escape(file.name)}: .*'{named}\b"):
        load_authors_checkpoint(G, file)
    assert all(torch.equal(before[name], value) for name, value in G.state_dict().items())


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path):
    file = saved({"layer1.main.0.weight": Payload(tmp_path / "ran")}, tmp_path)
    with pytest.raises(Exception, match="weights_only"):
        load_authors_checkpoint(Generator(size=32, width=4), file)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)["layer1.main.0.weight"].close()
    assert (tmp_path / "ran").exists(), "the payload would have run"
