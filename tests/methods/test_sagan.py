import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn

from helpers import SMALL_MIX, batch, images, parameters, values
from nblib.data.batches import Batch, Batches
from nblib.methods.catalogue import METHODS
from nblib.methods.encodings import (
    Attention,
    AttentionSpec,
    BinaryCode,
    LearnedPlace,
    Rope2d,
    Sinusoidal2d,
)
from nblib.methods.layers import (
    Added,
    ClosedGate,
    Concatenated,
    OpenGate,
    Placed,
    PlacedBehindNorm,
    cut,
    paste,
)
from nblib.methods.losses import wasserstein
from nblib.methods.method import detect_all
from nblib.methods.sagan import SAGAN, Generator
from nblib.results.probes import learned_places, with_swapped_codes, without_codes

FORMS = pytest.mark.parametrize("placed", [Placed, PlacedBehindNorm])
VARIANTS = [name for name, found in METHODS.items() if found.kind is SAGAN]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def generator(**arguments):
    return Generator(**(dict(size=32, width=4) | arguments))


def small(name, **arguments):
    return METHODS[name].make(**SMALL_MIX | arguments).eval()


def published(name):
    with torch.device("meta"):
        return METHODS[name].make()


# What it is made of


def test_the_published_generator_has_the_published_number_of_parameters():
    with torch.device("meta"):
        G = Generator(size=64, channels=1, width=64, grid=2)
    assert parameters(G) == 44_758_979


def test_the_published_model_has_the_published_settings():
    settings = {k: p.default for k, p in inspect.signature(SAGAN).parameters.items()}
    assert settings["width"] == 64 and settings["grid"] == 2 and settings["batch_size"] == 32
    assert settings["lr"] == 5e-5 and settings["steps"] == 100_000 and settings["decay"] == 1
    for optimizer in SAGAN(**SMALL_MIX).optimizers().values():
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

    G = generator(channels=3, width=4)
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
@FORMS
def test_possible_sizes_grids_and_channels_work(size, grid, channels, placed):
    G = generator(size=size, grid=grid, channels=channels, width=2, placed=placed)
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


def test_an_image_of_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="multiples of 16; got 24, 32"):
        generator(size=32, grid=2)(images(1, size=32)[..., :24, :])


@pytest.mark.parametrize("name", ["sagan_whole", "sagan_attention"])
@pytest.mark.parametrize(
    "padding, knows", [("zeros", True), ("reflect", True), ("circular", False)]
)
def test_a_circular_image_has_no_places_for_what_is_not_cut(name, padding, knows):
    """Moved by a multiple of 8 pixels, around the edge, it is restored as it was, only there."""
    G = small(name, padding=padding).G.eval()
    x = images(2, size=32)
    with torch.no_grad():
        moved = G(x.roll((8, 16), (2, 3))).roll((-8, -16), (2, 3))
        apart = (moved - G(x)).abs().max()
    assert (apart > 0.01) == knows and (knows or apart < 1e-4)


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


def cycled(G):
    """Hand the code of each patch to the next one."""
    for place in {
        module for module in G.modules() if isinstance(module, BinaryCode | LearnedPlace)
    }:
        code = place.code if isinstance(place, BinaryCode) else place.vectors
        code.copy_(code[[3, 0, 1, 2]])


# In double precision: norms over maps of 2 x 2 pixels blow up single precision's rounding.
DEAD_OR_ACTING = pytest.mark.parametrize(
    "placed, least, most", [(Placed, 0, 1e-8), (PlacedBehindNorm, 1e-3, 2)]
)


@DEAD_OR_ACTING
@pytest.mark.parametrize("place", [BinaryCode, LearnedPlace])
def test_swapped_codes_change_the_image_only_where_the_code_acts(place, placed, least, most):
    G = generator(place=place, placed=placed).double().eval()
    x = images().double()
    with torch.no_grad():
        before = G(x)
        cycled(G)
        assert least <= (G(x) - before).abs().max() <= most


class Shifted(nn.Module):
    """A place part that adds to the code of each patch a constant of its own."""

    def __init__(self, place):
        super().__init__()
        self.place, self.shift = place, torch.randn(4, place.channels, 1, 1).double()

    def forward(self, h, w):
        return self.place(h, w) + self.shift


@DEAD_OR_ACTING
def test_of_sinusoids_what_is_constant_over_a_patch_acts_only_behind_the_norm(placed, least, most):
    G = generator(place=Sinusoidal2d, placed=placed).double().eval()
    x = images().double()
    with torch.no_grad():
        before = G(x)
        told = [module for module in G.modules() if isinstance(module, Concatenated)]
        assert len(told) == 3
        for module in told:
            module.place = Shifted(module.place)
        assert least <= (G(x) - before).abs().max() <= most


@FORMS
def test_of_sinusoids_what_varies_inside_a_patch_acts_in_both_forms(placed):
    G, x = generator(place=Sinusoidal2d, placed=placed).eval(), images()
    with torch.no_grad():
        assert (with_swapped_codes(G)(x) - G(x)).abs().max() > 0.1


def test_with_swapped_codes_each_patch_hears_the_opposite_one_in_a_copy():
    G, x = generator(placed=PlacedBehindNorm).eval(), images()
    with torch.no_grad():
        before = G(x)
        swapped = with_swapped_codes(G)(x)
        assert torch.equal(G(x), before)
        for place in {module for module in G.modules() if isinstance(module, BinaryCode)}:
            place.code.copy_(place.code[[3, 2, 1, 0]])
        torch.testing.assert_close(G(x), swapped)
    assert (swapped - before).abs().max() > 0.1


def test_codes_of_zero_are_those_that_are_taken_out_in_a_copy():
    G, x = generator(placed=PlacedBehindNorm, place=LearnedPlace).eval(), images()
    with torch.no_grad():
        before = G(x)
        out = without_codes(G)(x)
        assert torch.equal(G(x), before)
        nn.init.zeros_(G.encoder.place1.code.place.vectors)
        torch.testing.assert_close(G(x), out, rtol=0, atol=1e-3)
    assert (out - before).abs().max() > 0.1


def test_a_generator_has_one_learned_code_for_all_its_maps_and_the_critic_its_own():
    method = small("sagan_learned")
    places = learned_places(method)
    of_G, of_D = (
        [module.place for module in network.modules() if isinstance(module, Concatenated)]
        for network in (method.G, method.D)
    )
    assert len(of_G) == 3 and all(part is places["G"] for part in of_G)
    assert len(of_D) == 4 and all(whole.place is places["D"] for whole in of_D)
    assert places["G"] is not places["D"]


@pytest.mark.parametrize("name, acts", [("sagan_learned", False), ("sagan_learned_acts", True)])
def test_a_learned_code_learns_where_it_acts_and_in_the_critic(name, acts):
    method, data = small(name), batch()
    places = learned_places(method)
    sum(method.generator_terms(data).values()).backward(inputs=list(method.G.parameters()))
    gradients = [p.grad.abs().max().item() for p in method.G.parameters()]
    share = places["G"].vectors.grad.abs().max().item() / max(gradients)
    assert share > 1e-2 if acts else share < 1e-6
    terms = wasserstein(method.D, data.normal, data.unlabeled, 10.0)
    sum(terms.values()).backward(inputs=list(method.D.parameters()))
    assert places["D"].vectors.grad.abs().min() > 1e-5


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


# Attention


@pytest.mark.parametrize("after", [0, 3, 6])
def test_attention_stands_behind_so_many_residual_blocks(after):
    G = generator(attention=AttentionSpec(Rope2d, after, heads=2, dropout=0.1), grid=1)
    parts = [type(part).__name__ for part in G.bottleneck]
    residuals = ["Residual"] * 6
    assert parts == ["Placed", *residuals[:after], "Attention", *residuals[after:]]
    made = G.bottleneck[1 + after]
    assert made.heads == 2 and made.dropout.p == 0.1 and isinstance(made.position, Rope2d)


def test_the_variants_attend_in_front_of_the_first_residual_block():
    for name in ("sagan_attention", "sagan_rope", "sagan_alibi", "sagan_attention_bias"):
        assert isinstance(small(name).G.bottleneck[1], Attention)


@pytest.mark.parametrize("name", ["sagan_rope", "sagan_alibi", "sagan_attention_bias"])
def test_with_a_silent_encoding_a_variant_is_the_control_with_attention(name):
    G, control, x = small(name).G.double(), small("sagan_attention").G.double(), images().double()
    left = control.load_state_dict(G.state_dict(), strict=False)
    own = {k for k in left.unexpected_keys if "position_bias_table" not in k}
    assert not left.missing_keys and not own
    position = G.bottleneck[1].position
    with torch.no_grad():
        assert (G(x) - control(x)).abs().max() > 1e-2
        silent = {
            "sagan_rope": lambda: position.rotary.bands,
            "sagan_alibi": lambda: position.slopes,
            "sagan_attention_bias": lambda: position.lookup.relative_position_bias_table,
        }
        silent[name]().zero_()
        torch.testing.assert_close(G(x), control(x), rtol=0, atol=1e-5)


# The variants and controls of METHODS


def test_variants_have_the_published_size_and_what_is_new_counted_by_hand():
    """Binary codes have 3 channels, the others 16; 896 channels of the generator are told.

    Attention: three maps and one with bias of 512 channels, a norm; 8 heads on maps of 8 x 8.
    """
    told = 128 + 256 + 512
    gates = sum(2 * (c * c // 2 + c // 2) + c // 2 + 1 for c in (128, 256, 512))
    G, D = 44_758_979, 44_719_040
    in_critic = 16 * 16 * (128 + 256 + 512 + 1024 + 2048)
    whole, attention = G - 3 * told, 3 * 512**2 + 512**2 + 512 + 2 * 512
    expected = {
        "sagan": (G, D),
        "sagan_place_acts": (G, D),
        "sagan_sinusoidal": (G + 13 * told, D + in_critic),
        "sagan_sinusoidal_acts": (G + 13 * told, D + in_critic),
        "sagan_learned": (G + 13 * told + 4 * 16, D + in_critic + 4 * 16),
        "sagan_learned_acts": (G + 13 * told + 4 * 16, D + in_critic + 4 * 16),
        "sagan_no_place": (whole, D),
        "sagan_whole": (whole, D),
        "sagan_attention": (whole + attention, D),
        "sagan_rope": (whole + attention, D),
        "sagan_alibi": (whole + attention, D),
        "sagan_attention_bias": (whole + attention + 8 * (2 * 8 - 1) ** 2, D),
        "sagan_no_gates": (G - gates, D),
        "sagan_no_skips": (G - gates, D),
        "sagan_no_pseudo": (G, D),
        "sagan_no_unlabeled": (G, D),
    }
    assert expected.keys() == set(VARIANTS) - {"sagan_swin"}
    for name, counts in expected.items():
        method = published(name)
        assert (parameters(method.G), parameters(method.D)) == counts, name


def test_the_published_swin_generator_is_about_as_large():
    method = published("sagan_swin")
    assert parameters(method.G) == pytest.approx(44_758_979, rel=0.25)
    assert parameters(method.D) == 44_719_040


@pytest.mark.parametrize("name", ["sagan_sinusoidal", "sagan_sinusoidal_acts"])
def test_sinusoids_are_added_behind_the_first_layers_of_generator_and_critic(name):
    method, x, added = small(name), images(3), Sinusoidal2d(2, 4)
    seen = []
    for part in (method.G.encoder.down1, method.D.layers[2]):
        part.register_forward_hook(lambda part, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        method.G(x), method.D(x)
        first = method.G.encoder.stem(cut(x, 2))
    (of_G, _), (given, told) = seen
    torch.testing.assert_close(of_G - first, added(16, 16).repeat(3, 1, 1, 1))
    torch.testing.assert_close(told - given, paste(added(8, 8), 2).expand(3, -1, -1, -1))


def test_of_the_variants_those_with_sinusoids_or_learned_codes_tell_the_critic_places():
    telling, adding = (
        {name for name in VARIANTS if any(isinstance(m, kind) for m in small(name).D.modules())}
        for kind in (Concatenated, Added)
    )
    assert adding == {"sagan_sinusoidal", "sagan_sinusoidal_acts"}
    assert telling == adding | {"sagan_learned", "sagan_learned_acts"}


@pytest.mark.parametrize("size", [48, 64])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_generator_scores_images_of_other_sizes_than_those_it_was_made_for(name, size):
    G, x = small(name).G, images(2, size=size)
    with torch.no_grad():
        restored = G(x)
    assert restored.shape == x.shape and restored.isfinite().all()
    assert restored.abs().max() <= 1 and (restored - torch.tanh(x)).std() > 0.01


@pytest.mark.parametrize(
    "name",
    ["sagan_whole", "sagan_attention", "sagan_rope", "sagan_alibi", "sagan_attention_bias"],
)
def test_variants_of_the_whole_image_hear_all_of_it_and_are_told_no_places(name):
    method, x = small(name), images(1)
    told = [m for m in method.modules() if isinstance(m, Concatenated | Added)]
    assert method.G.grid == 1 and not told
    other = x.clone()
    other[..., 0, 0] += 1
    with torch.no_grad():
        assert (method.G(x) != method.G(other)).float().mean() > 0.99


def test_a_generator_without_a_place_is_cut_and_told_no_places():
    method, x = small("sagan_no_place"), images(1)
    assert not [m for m in method.modules() if isinstance(m, Concatenated | Added)]
    other = x.clone()
    other[..., 0, 0] += 1
    with torch.no_grad():
        changed = (method.G(x) != method.G(other))[0, 0]
    assert changed[:16, :16].all() and changed.sum() == 16 * 16


@pytest.mark.parametrize("name, alpha", [("sagan_no_gates", 1.0), ("sagan_no_skips", 0.0)])
def test_without_gates_or_skips_the_decoder_is_the_published_one_with_constant_gates(name, alpha):
    G, full = small(name).G, small("sagan").G
    left = G.load_state_dict(full.state_dict(), strict=False)
    assert not left.missing_keys and all(".gate" in key for key in left.unexpected_keys)
    x = images()
    with torch.no_grad():
        assert (G(x) - full(x)).abs().max() > 0.1
        for gate in (full.decoder.gate1, full.decoder.gate2, full.decoder.gate3):
            gate.attention = lambda deeper, skip: torch.full_like(skip[:, :1], alpha)
        torch.testing.assert_close(G(x), full(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, hears", [("sagan_no_skips", False), ("sagan", True)])
def test_without_skips_the_decoder_hears_of_the_bottleneck_alone(name, hears):
    decoder = small(name).G.decoder
    e = torch.randn(4, 32, 2, 2)
    with torch.no_grad():
        one, other = (
            decoder(e, torch.randn(4, 8, 8, 8), torch.randn(4, 16, 4, 4)) for _ in range(2)
        )
    assert torch.equal(one, other) != hears


def uint8(count):
    return np.random.default_rng(count).integers(0, 256, (count, 1, 32, 32), np.uint8)


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("sagan", "normal unlabeled pseudo"),
        ("sagan_no_pseudo", "normal unlabeled"),
        ("sagan_no_unlabeled", "normal pseudo"),
    ],
)
def test_batches_carry_what_a_variant_learns_from_and_each_kind_has_its_term(name, kinds):
    method = small(name)
    data = Batches(uint8(6), uint8(5), method.needs, 4, 0)(1)
    carried = {kind for kind, x in data._asdict().items() if x is not None}
    assert carried == set(kinds.split())
    (_, of_critic), (_, of_generator) = method.updates(data, 1)
    assert of_critic.keys() == {"adversarial", "penalty"}
    expected = {"adversarial", "identity"} | ({"reconstruction"} if "pseudo" in carried else set())
    assert of_generator.keys() == expected


@pytest.mark.parametrize("in_batch", [False, True])
def test_without_pseudo_anomalies_the_other_terms_are_the_thesis_equation_in_numpy(in_batch):
    method = small("sagan_no_pseudo", lambda_id=2.0)
    n, u, p = batch()
    with torch.no_grad():
        terms = method.generator_terms(Batch(n, u, p if in_batch else None))
        critic, n_healthy = method.D(method.G(u)).numpy(), method.G(n).numpy()
    expected = {
        "adversarial": -critic.mean(),
        "identity": 2 * np.abs(n.numpy() - n_healthy).mean(),
    }
    assert values(terms) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("in_batch", [False, True])
def test_without_the_unlabeled_mix_the_known_normals_are_what_is_generated(in_batch):
    method = small("sagan_no_unlabeled", lambda_rec=3.0)
    n, u, p = batch()
    data = Batch(n, u if in_batch else None, p)
    (_, of_critic), (_, of_generator) = method.updates(data, 1)
    with torch.no_grad():
        n_healthy, p_healthy = method.G(n), method.G(p).numpy()
        fake, real = method.D(n_healthy).numpy(), method.D(n).numpy()
    assert of_critic["adversarial"].item() == pytest.approx(fake.mean() - real.mean(), rel=1e-3)
    expected = {
        "adversarial": -fake.mean(),
        "identity": np.abs(n.numpy() - n_healthy.numpy()).mean(),
        "reconstruction": 3 * ((n.numpy() - p_healthy) ** 2).mean(),
    }
    assert values(of_generator) == pytest.approx(expected, rel=1e-4)


def test_the_order_in_which_the_needs_are_named_changes_nothing():
    data, found = batch(), []
    for needs in [("normal", "unlabeled", "pseudo"), ("pseudo", "normal", "unlabeled")]:
        torch.manual_seed(1)
        method = small("sagan", needs=needs).train()
        found.append([values(terms) for _, terms in method.updates(data, 1)])
    assert found[0] == found[1]


def test_tables_say_what_a_variant_learns_from():
    uses = {name: METHODS[name].uses for name in VARIANTS}
    assert uses.pop("sagan_no_unlabeled") == "known normals"
    assert set(uses.values()) == {"known normals + unlabeled"} and len(uses) > 10


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
    method = SAGAN(**SMALL_MIX, lambda_id=2.0, lambda_rec=3.0).eval()
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
    method = SAGAN(**SMALL_MIX, lambda_gp=7.0).eval()
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
    method = SAGAN(**SMALL_MIX)
    normal, healthy = images() * 0.1 + 0.5, images() * 0.1 - 0.5
    optimizer = torch.optim.Adam(method.D.parameters(), 1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        sum(wasserstein(method.D, normal, healthy, method.lambda_gp).values()).backward()
        optimizer.step()
    assert method.D(normal).mean() > method.D(healthy).mean() + 0.5


def test_a_few_dozen_steps_let_the_reconstruction_loss_fall():
    method = SAGAN(**SMALL_MIX, lr=5e-3)
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


def test_gate_maps_are_pasted_together_deepest_first_and_leave_no_hooks():
    method, x = SAGAN(**SMALL_MIX).eval(), images(3)
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
    method, x = SAGAN(**SMALL_MIX | dict(grid=1)).eval(), images(2)
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
    method = SAGAN(**SMALL_MIX)
    with pytest.raises(RuntimeError):
        method.gate_maps(images(1, channels=2))
    assert not any(m._forward_hooks for m in method.modules())


def test_scores_are_the_same_whatever_mode_the_method_is_in():
    method = SAGAN(**SMALL_MIX)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), np.uint8)
    scores = [detect_all(m, pictures).scores["residual"] for m in (method.train(), method.eval())]
    assert np.array_equal(*scores)


@pytest.mark.parametrize("gate, alpha", [(OpenGate, 1), (ClosedGate, 0)])
def test_gates_that_are_open_or_closed_have_maps_too(gate, alpha):
    maps = SAGAN(**SMALL_MIX, gate=gate).eval().gate_maps(images(2))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 4), (2, 8, 8), (2, 16, 16)]
    assert all((m == alpha).all() for m in maps)


@pytest.mark.parametrize("after", [-1, 7])
def test_attention_behind_blocks_that_are_not_there_is_refused(after):
    with pytest.raises(ValueError, match=f"There are 6 residual blocks.*{after} of them"):
        generator(attention=AttentionSpec(after=after, heads=4))


def test_no_sinusoid_is_left_when_codes_are_taken_out():
    G = without_codes(generator(place=Sinusoidal2d, added=Sinusoidal2d).double())
    assert not any(isinstance(m, Sinusoidal2d) for m in G.modules())
    assert G(images().double()).isfinite().all()
