import numpy as np
import pytest
import torch
from torch import nn

from nblib.methods.encodings import BinaryCode
from nblib.methods.layers import AttentionGate, OpenGate
from nblib.methods.sagan import ConvEncoder, Generator, conv_decoder
from nblib.methods.swin import PatchExpanding, SwinEncoder, SwinFuse, swin_decoder, windows
from nblib.training import runs


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Short(Generator):
    """With one residual block: six carry a pixel across the whole bottleneck."""

    blocks = 1


def generator(size=32, **arguments):
    own = dict(width=4, grid=1, place=None, encoder=SwinEncoder, decoder=swin_decoder)
    return Short(size, **own | arguments).eval()


def reached(module, x, at):
    """Where (h, w) the output moves with the input's pixel `at` of the first channel."""
    other = x.clone()
    other[:, 0, at[0], at[1]] += 1
    with torch.no_grad():
        return (module(other) - module(x)).abs().amax((0, 1)) > 1e-12


def images(size, channels=1):
    return torch.rand(2, channels, size, size, dtype=torch.float64) * 2 - 1


# Encoder


@pytest.mark.parametrize("trained", [32, 64])
@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_encoder_gives_maps_of_half_a_quarter_and_an_eighth(channels, size, trained):
    encoder = SwinEncoder(channels, 4, trained)
    maps = encoder(torch.randn(2, channels, size, size))
    expected = [(2, 8 * 2**i, size // 2 ** (i + 1), size // 2 ** (i + 1)) for i in range(3)]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.isfinite().all() and m.std() > 0.01 for m in maps)


def test_the_last_map_is_normed_over_its_channels_and_the_skips_are_not():
    encoder, left = SwinEncoder(1, 4, 32), []
    nn.init.normal_(encoder.stages.norm.weight)
    nn.init.normal_(encoder.stages.norm.bias)
    for stage in encoder.stages.layers:
        stage.register_forward_hook(lambda stage, given, out: left.append(out.detach().numpy()))
    s1, s2, s3 = (
        m.permute(0, 2, 3, 1).detach().numpy() for m in encoder(torch.randn(2, 1, 32, 32))
    )
    centred = left[2] - left[2].mean(-1, keepdims=True)
    normed = centred / np.sqrt(left[2].var(-1, keepdims=True) + 1e-5)
    scale, shift = (p.detach().numpy() for p in encoder.stages.norm.parameters())
    np.testing.assert_allclose(s3, normed * scale + shift, rtol=1e-3, atol=1e-4)
    assert np.array_equal(s1, left[0]) and np.array_equal(s2, left[1])


@pytest.mark.parametrize("told", [dict(place=BinaryCode(1)), dict(added=BinaryCode(1))])
def test_the_encoder_refuses_a_place_code(told):
    with pytest.raises(ValueError, match="takes no place code: give place=None, added=None"):
        SwinEncoder(1, 4, 32, **told)


def test_a_generator_with_a_place_code_is_refused_by_its_encoder():
    with pytest.raises(ValueError, match="takes no place code"):
        generator(place=BinaryCode)


@pytest.mark.parametrize("size", [32, 64])
def test_a_pixel_in_one_corner_is_heard_in_the_other_behind_the_encoder(size):
    encoder = SwinEncoder(1, 4, size).double().eval()
    near, _, far = (reached(lambda x, i=i: encoder(x)[i], images(size), (0, 0)) for i in range(3))
    assert far.all() and near[0, 0]
    assert not near[-1, -1], "behind the first stage, in windows, it is not"


# Decoder


def test_patch_expanding_is_a_linear_map_spread_over_two_by_two_places_and_a_norm():
    part, x = PatchExpanding(6, 3), torch.randn(2, 6, 4, 5)
    nn.init.normal_(part.norm.weight)
    nn.init.normal_(part.norm.bias)
    weight = part.linear.weight[:, :, 0, 0].detach().numpy()
    scale, shift = part.norm.weight.detach().numpy(), part.norm.bias.detach().numpy()
    expected = np.zeros((2, 3, 8, 10))
    for image in range(2):
        for i in range(4):
            for j in range(5):
                made = weight @ x[image, :, i, j].numpy()
                for channel in range(3):
                    four = made[4 * channel : 4 * channel + 4].reshape(2, 2)
                    expected[image, channel, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = four
    centred = expected - expected.mean(1, keepdims=True)
    normed = centred / np.sqrt(expected.var(1, keepdims=True) + 1e-5)
    expected = normed * scale[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(part(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in part.parameters()) == 6 * 4 * 3 + 2 * 3


@pytest.mark.parametrize("gate", [AttentionGate, OpenGate])
@pytest.mark.parametrize("size", [16, 32])
def test_the_decoder_makes_an_image_of_three_maps(gate, size):
    decoder = swin_decoder(3, 4, size, gate)
    e, s2, s1 = (torch.randn(2, 4 * 2**i, size // 2**i, size // 2**i) for i in (3, 2, 1))
    r = decoder(e, s1, s2)
    assert r.shape == (2, 3, size, size) and r.isfinite().all()
    assert isinstance(decoder.gate1, gate)


@pytest.mark.parametrize("size", [16, 32])
def test_a_place_in_one_corner_is_heard_in_the_other_where_the_decoder_fuses_first(size):
    """No norm over the map stands there."""
    decoder = swin_decoder(1, 4, size, OpenGate).double().eval()
    e = torch.randn(2, 64, size // 8, size // 8, dtype=torch.float64)
    assert reached(lambda x: decoder.up1(decoder.fuse1(x)), e, (0, 0)).all()


@pytest.mark.parametrize(
    "encoder, decoder, heard",
    [(SwinEncoder, swin_decoder, True), (ConvEncoder, conv_decoder, False)],
)
def test_a_pixel_is_heard_in_the_far_corner_by_attention_alone(encoder, decoder, heard):
    """With the norms over a map taken out, through which all hears all."""
    G = generator(64, encoder=encoder, decoder=decoder, gate=OpenGate).double()
    for module in G.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x

    def change(x):
        s1, s2, s3 = G.encoder(x)
        return G.decoder(G.bottleneck(s3), s1, s2)

    found = reached(change, images(64), (0, 0))
    assert found[0, 0] and found[-1, -1] == heard


# Windows


def shifts(stage):
    return [(block.window_size, block.shift_size) for block in stage.blocks]


def test_attention_is_global_and_not_shifted_where_windows_hold_the_map():
    """At 64 pixels: maps of 32, 16 and 8; a window has 8 places along a side."""
    G = generator(64)
    in_windows, whole = [((8, 8), (0, 0)), ((8, 8), (4, 4))], [((8, 8), (0, 0))] * 2
    assert [shifts(stage) for stage in G.encoder.stages.layers] == [in_windows, in_windows, whole]
    d = G.decoder
    fused = [shifts(fuse.blocks) for fuse in (d.fuse1, d.fuse2, d.fuse3)]
    assert fused == [whole, in_windows, in_windows]


def test_windows_are_cut_to_smaller_maps():
    G = generator(32)
    assert shifts(G.encoder.stages.layers[2]) == [((4, 4), (0, 0))] * 2
    assert shifts(G.decoder.fuse1.blocks) == [((4, 4), (0, 0))] * 2


def box(size, rows, columns):
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[rows, columns] = True
    return inside


@pytest.mark.parametrize(
    "block, at, rows, columns",
    [
        (0, (0, 0), slice(0, 8), slice(0, 8)),
        (0, (3, 9), slice(0, 8), slice(8, 16)),
        (1, (0, 0), slice(0, 4), slice(0, 4)),
        (1, (5, 6), slice(4, 12), slice(4, 12)),
        (1, (15, 4), slice(12, 16), slice(4, 12)),
    ],
)
@pytest.mark.parametrize("trained", [16, 24])
@pytest.mark.parametrize("where", ["encoder", "decoder"])
def test_a_place_is_heard_in_its_window_and_in_the_second_block_in_the_shifted_one(
    where, trained, block, at, rows, columns
):
    if where == "encoder":
        stage = SwinEncoder(1, 2, 2 * trained).stages.layers[0]
    else:
        stage = SwinFuse(8, 4, trained).blocks
    part, x = stage.blocks[block].double().eval(), torch.randn(1, 4, 16, 16).double()
    found = reached(lambda x: part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), x, at)
    assert torch.equal(found, box(16, rows, columns))


@pytest.mark.parametrize("block", [0, 1])
def test_where_a_window_holds_the_map_a_place_is_heard_everywhere_in_each_block(block):
    part = SwinFuse(8, 4, 8).blocks.blocks[block].double().eval()
    x = torch.randn(1, 4, 8, 8).double()
    assert reached(lambda x: part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), x, (0, 0)).all()


def test_the_table_of_windows_names_each_block_in_order():
    table = windows(generator(64))
    sides = [32, 32, 16, 16, 8, 8, 8, 8, 16, 16, 32, 32]
    assert table["map"].tolist() == [f"{side} x {side}" for side in sides]
    assert [a == "global" for a in table["attention"]] == [side == 8 for side in sides]
    assert table["shift"].tolist() == [0, 4, 0, 4, 0, 0, 0, 0, 0, 4, 0, 4]
    assert table["channels"].tolist() == [8, 8, 16, 16, 32, 32, 32, 32, 16, 16, 8, 8]


# Sources


def test_a_run_of_swin_depends_on_its_file_and_on_sagans_and_one_of_sagan_not():
    names = {
        method: {file.name for file in runs.sources(method)} for method in ("sagan_swin", "sagan")
    }
    assert {"swin.py", "sagan.py"} <= names["sagan_swin"]
    assert names["sagan_swin"] - names["sagan"] == {"swin.py"}
    assert runs.code_digest("sagan_swin") != runs.code_digest("sagan")
