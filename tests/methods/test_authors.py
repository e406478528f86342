"""The authors' generator, written a second time from the table of layers, and its checkpoints."""

import copy
import io
import os
import pickle
import re
import zipfile

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from helpers import images, parameters
from nblib.methods.authors import AUTHORS_NAMES, load_authors_checkpoint
from nblib.methods.sagan import Generator


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


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


OTHERS = {
    "a prefix of DataParallel": lambda s: {f"module.{key}": value for key, value in s.items()},
    "a whole checkpoint": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}}},
    "one of several networks": lambda s: {"D": {"main.0.weight": torch.zeros(1)}, "G": s},
    "double precision": lambda s: {key: value.double() for key, value in s.items()},
}


@pytest.mark.parametrize("saved_as", OTHERS.values(), ids=OTHERS)
def test_other_ways_to_save_the_same_weights_load_the_same(theirs, tmp_path, saved_as):
    G, same = Generator(size=32, width=4), Generator(size=32, width=4)
    load_authors_checkpoint(G, saved(theirs.state_dict(), tmp_path))
    load_authors_checkpoint(same, saved(saved_as(theirs.state_dict()), tmp_path))
    ours = same.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in G.state_dict().items())


def test_half_precision_is_rounded(theirs, tmp_path):
    G = Generator(size=32, width=4)
    state = {key: value.half() for key, value in theirs.state_dict().items()}
    load_authors_checkpoint(G, saved(state, tmp_path))
    weight = theirs.conv.weight
    assert G.decoder.head.weight.dtype == torch.float32
    torch.testing.assert_close(G.decoder.head.weight, weight, rtol=1e-3, atol=1e-4)


NO_STATES = {
    "two generators": (lambda s: {"G": s, "G_average": s}, "'G', 'G_average'"),
    "a whole model": (lambda s: {f"G.{k}": v for k, v in s.items()}, "'G.layer1"),
    "an optimiser": (lambda s: torch.optim.Adam(TheirGate(2).parameters()).state_dict(), "'state'"),
    "a list": (lambda s: [s], "no dictionary by name"),
    "a tensor": (lambda s: torch.zeros(3), "no dictionary by name"),
    "nothing": (lambda s: {}, "'layer1'"),
    "names that are numbers": (lambda s: dict(enumerate(s.values())), "no dictionary by name"),
    "a name of two lines": (lambda s: s | {"layer\n1": torch.zeros(1)}, r"layer\n1"),
    "numbers in place of tensors": (lambda s: dict.fromkeys(s, 1), "no tensor of real numbers"),
    "integers": (lambda s: {k: v.int() for k, v in s.items()}, "no tensor of real numbers"),
    "a sparse tensor": (lambda s: sparse(s), "'conv.weight' is no tensor"),
    "a tensor without numbers": (
        lambda s: s | {"conv.weight": s["conv.weight"].to("meta")},
        "'conv.weight' is no tensor",
    ),
    "a tensor twice": (
        lambda s: s | {"module.conv.weight": s["conv.weight"] + 1},
        "'conv.weight' twice",
    ),
    "NaN": (lambda s: s | {"conv.weight": s["conv.weight"] * torch.nan}, "'conv.weight' holds"),
    "more than single precision holds": (
        lambda s: s | {"conv.weight": s["conv.weight"].double() * 1e300},
        "'conv.weight' holds",
    ),
}


def sparse(state):
    return state | {"conv.weight": state["conv.weight"].to_sparse()}


def refused(file, words):
    G = Generator(size=32, width=4)
    before = copy.deepcopy(G.state_dict())
    with pytest.raises(ValueError) as error:
        load_authors_checkpoint(G, file)
    (line,) = str(error.value).splitlines()
    assert str(file) in line and words in line
    assert all(torch.equal(before[name], value) for name, value in G.state_dict().items())


@pytest.mark.parametrize("content, words", NO_STATES.values(), ids=NO_STATES)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_what_is_no_state_of_one_generator_is_refused(theirs, tmp_path, content, words):
    refused(saved(content(theirs.state_dict()), tmp_path), words)


def flipped(content):
    """A bit of a weight is another: in the middle of the largest tensor."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        at = content.index(archive.read(largest)) + largest.file_size // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


NO_FILES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-10],
    "a flipped bit": flipped,
    "text": lambda content: b"no such thing",
    "a picture": lambda content: b"\x89PNG\r\n\x1a\n" + content,
    "a pickle of numbers": lambda content: pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("damage", NO_FILES.values(), ids=NO_FILES)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_checkpoint_is_refused(theirs, tmp_path, damage):
    file = saved(theirs.state_dict(), tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    refused(file, "damaged")


def test_a_folder_a_pipe_and_a_missing_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.ckpt")
    for file in (tmp_path, tmp_path / "pipe.ckpt", tmp_path / "nowhere.ckpt"):
        refused(file, "missing, damaged")


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path):
    file = saved({"layer1.main.0.weight": Payload(tmp_path / "ran")}, tmp_path)
    with pytest.raises(ValueError, match="weights_only"):
        load_authors_checkpoint(Generator(size=32, width=4), file)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)["layer1.main.0.weight"].close()
    assert (tmp_path / "ran").exists(), "the payload would have run"
