"""Parameters and operations against counts by hand, throughput against a clock that ticks."""

import functools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from nblib.methods.catalogue import METHODS
from nblib.methods.method import Detection, Method
from nblib.results import costs
from nblib.results.costs import Counter, networks, throughput
from nblib.training import budgets
from nblib.training.loop import best_device, usual_precision

SCORING, TRAINING = "scoring an image, MFLOP", "training with an image, MFLOP"
TRAINED = [name for name in METHODS if "steps" in budgets.arguments(name, "smoke")]
CLOSED = [name for name in METHODS if name not in TRAINED]


@functools.cache
def smoke(name):
    return networks(name, "smoke")


def numbers(table, budget="smoke"):
    return {what: int(text.replace(",", "")) for what, text in table[budget].dropna().items()}


def mega(operations):
    return f"{operations / 1e6:,.0f}"


# By hand. A convolution multiplies and adds, cin * cout * kernel^2 times at each place: of its
# output, or of its input where it is transposed.


def weights(layer):
    cin, cout, kernel, _ = layer
    return cin * cout * kernel**2


def operations(layer):
    return 2 * weights(layer) * layer[-1] ** 2


def halving(size, channels, width):
    """(channels in, channels out, kernel, places a side), down to 4 x 4."""
    layers = [(channels, width, 4, size // 2)]
    while layers[-1][-1] > 4:
        cin, places = layers[-1][1], layers[-1][-1]
        layers.append((cin, 2 * cin, 4, places // 2))
    return layers


def doubling(size, channels, width, latent):
    down = halving(size, channels, width)
    return [(latent, down[-1][1], 4, 1), *((b, a, k, places) for a, b, k, places in down[::-1])]


def ganomaly(size, channels, width, latent=100):
    """The layers of GANomaly's encoder, decoder and critic; the last of both is to 1 x 1."""
    trunk = halving(size, channels, width)
    last = trunk[-1][1]
    return (
        [*trunk, (last, latent, 4, 1)],
        doubling(size, channels, width, latent),
        [*trunk, (last, 1, 4, 1)],
    )


def brainomaly(size, channels, width):
    half, quarter = size // 2, size // 4
    return [
        (channels, width, 7, size),
        (width, 2 * width, 4, half),
        (2 * width, 4 * width, 4, quarter),
        *[(4 * width, 4 * width, 3, quarter)] * 12,
        (4 * width, 2 * width, 4, quarter),
        (2 * width, width, 4, half),
        (width, channels, 7, size),
    ]


def total(layers):
    return sum(map(operations, layers))


SHAPES = [("smoke", 64, 1), ("laptop", 64, 1), ("laptop", 128, 3)]


@pytest.mark.parametrize("budget, size, channels", SHAPES)
def test_scoring_with_ganomaly_costs_two_encoders_and_a_decoder(budget, size, channels):
    width = budgets.arguments("ganomaly", budget)["width"]
    encoder, decoder, _ = ganomaly(size, channels, width)
    table = networks("ganomaly", budget, size=size, channels=channels)
    assert table.loc[SCORING, budget] == mega(2 * total(encoder) + total(decoder))


@pytest.mark.parametrize("budget, size, channels", SHAPES)
def test_scoring_with_brainomaly_costs_its_generator(budget, size, channels):
    width = budgets.arguments("brainomaly", budget)["width"]
    table = networks("brainomaly", budget, size=size, channels=channels)
    assert table.loc[SCORING, budget] == mega(total(brainomaly(size, channels, width)))


@pytest.mark.parametrize("size", [64, 128])
def test_a_search_with_gradients_is_counted_step_by_step(size):
    """AnoGAN: G, the critic's features and both gradients in each of so many steps."""
    arguments = budgets.arguments("anogan", "smoke")
    _, G, D = ganomaly(size, 1, arguments["width"])
    G, features = total(G), total(D[:-1])
    searched = (arguments["search_steps"] + 1) * 2 * (G + features)
    expected = mega(searched + G + 3 * features)
    assert networks("anogan", "smoke", size=size).loc[SCORING, "smoke"] == expected


@pytest.mark.parametrize("budget", ["smoke", "laptop"])
def test_training_costs_the_weights_and_the_inputs_of_each_layer_once_more(budget):
    """GANomaly: backward costs forward for the weights and forward again for the inputs.

    But no gradient goes to an image, nor, in the update of G, to the weights of D.
    """
    E, decoder, D = ganomaly(64, 1, budgets.arguments("ganomaly", budget)["width"])
    first, features = operations(E[0]), total(D[:-1])
    E, decoder, D = map(total, (E, decoder, D))
    forward = 2 * E + decoder + 2 * D + 2 * features
    of_generator = 2 * (2 * E + decoder) - first + features
    of_critic = 2 * (2 * D - first)
    table = networks("ganomaly", budget)
    assert table.loc[TRAINING, budget] == mega(forward + of_generator + of_critic)


@pytest.mark.parametrize("budget, size, channels", SHAPES)
def test_parameters_of_ganomaly_are_those_of_its_layers(budget, size, channels):
    width = budgets.arguments("ganomaly", budget)["width"]
    E, decoder, D = ganomaly(size, channels, width)
    # A scale and a shift for each channel of a batch norm: none on an image, none on a code.
    norms_down = 2 * sum(cout for _, cout, *_ in E[1:-1])
    norms_up = 2 * sum(cout for _, cout, *_ in decoder[:-1])
    found = numbers(networks("ganomaly", budget, size=size, channels=channels), budget)
    E, decoder, D = (sum(map(weights, layers)) for layers in (E, decoder, D))
    assert found["parameters of G"] == 2 * (E + norms_down) + decoder + norms_up
    assert found["parameters of D"] == D + norms_down


@pytest.mark.parametrize("name", TRAINED)
def test_the_parameters_of_the_networks_are_all_that_are_trained(name):
    found = numbers(smoke(name))
    owned = [n for what, n in found.items() if what.startswith("parameters of ")]
    method = METHODS[name].make(**budgets.arguments(name, "smoke"))
    assert sum(owned) == sum(p.numel() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", [n for n in TRAINED if n != "anogan"])
def test_training_with_an_image_costs_more_than_scoring_it(name):
    found = numbers(smoke(name))
    if METHODS[name].kind.encode is None:
        assert 0 < 2 * found[SCORING] < found[TRAINING]
    elif name == "brainomaly_features":  # encoded once, before the training
        assert 0 < found[TRAINING] < found[SCORING]
    else:  # of four times as many places, while `smoke` encodes a small image
        assert found[TRAINING] > 0


@pytest.mark.parametrize("name", CLOSED)
def test_a_method_without_training_costs_only_its_scoring(name):
    assert list(smoke(name).index) == [SCORING]


def test_statistics_multiply_nothing():
    assert networks("mean_intensity", "smoke").loc[SCORING, "smoke"] == "0"


def test_pretrained_features_cost_a_pass_through_their_network():
    """EfficientNet-Lite0 at 224 x 224: Tan and Le's table 1, without squeeze and excitation."""
    stages = [  # expansion, channels, blocks, stride, kernel
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
    ]  # fmt: skip
    cin, side = 32, 112
    expected = operations((3, cin, 3, side))
    for expansion, channels, blocks, stride, kernel in stages:
        for block in range(blocks):
            inner = cin * expansion
            expected += operations((cin, inner, 1, side)) if expansion > 1 else 0
            side = side if block else side // stride
            expected += operations((1, inner, kernel, side))
            expected += operations((inner, channels, 1, side))
            cin = channels
    assert networks("pretrained_knn", "thesis").loc[SCORING, "thesis"] == mega(expected)


def test_each_budget_has_a_column_in_the_order_asked_for():
    table = networks("ganomaly", "laptop", "smoke")
    assert list(table) == ["laptop", "smoke"]
    for budget in table:
        assert table[budget].equals(networks("ganomaly", budget)[budget])
    large, small = (numbers(table, budget) for budget in table)
    assert large.keys() == small.keys() and all(large[what] > small[what] for what in large)


@pytest.mark.parametrize("name", ["anogan", "ganomaly", "sagan"])
def test_counting_leaves_gradients_on_and_is_the_same_again(name):
    first = smoke(name)
    assert torch.is_grad_enabled()
    assert networks(name, "smoke").equals(first)


# Training of networks whose operations are few enough to name


class Alternating(Method):
    """A critic that learns at every step, a generator that learns at every other."""

    def __init__(self, size=4, batch_size=8, steps=8, penalty=False):
        super().__init__()
        self.G, self.D = nn.Linear(1000, 500, bias=False), nn.Linear(500, 2000, bias=False)
        self.batch_size, self.penalty = batch_size, penalty

    def optimizers(self):
        return {name: torch.optim.SGD(getattr(self, name).parameters(), 1.0) for name in "DG"}

    def updates(self, batch, step):
        x = torch.ones(len(batch.normal), 1000, device=batch.normal.device)
        with torch.no_grad():
            made = self.G(x)
        value = self.D(made).sum()
        yield "D", {"value": value}
        yield None, {"seen": value.detach()}
        if self.penalty:
            made = made.requires_grad_()
            (gradient,) = torch.autograd.grad(self.D(made).sum(), made, create_graph=True)
            yield "D", {"penalty": gradient.square().sum()}
        if step % 2:
            yield "G", {"value": self.D(self.G(x)).sum()}

    def detect(self, x):
        return Detection(
            {"value": self.D(self.G(torch.ones(len(x), 1000, device=x.device))).sum(1)}
        )


G, D = 2 * 1000 * 500, 2 * 500 * 2000
"""Operations of the two layers for an image."""


def test_a_generator_that_learns_at_every_other_step_counts_half(monkeypatch):
    monkeypatch.setitem(METHODS, "alternating", METHODS["mean_image"]._replace(make=Alternating))
    table = networks("alternating", "smoke", size=4)
    critic = G + 2 * D  # forward, and the gradient of D's weights
    generator = G + D + D + G  # forward, and the gradient of D's input and of G's weights
    assert table.loc[SCORING, "smoke"] == mega(G + D)
    assert table.loc[TRAINING, "smoke"] == mega(critic + generator / 2)


def test_a_gradient_within_a_step_is_counted_and_so_is_the_gradient_through_it(monkeypatch):
    one = METHODS["mean_image"]
    monkeypatch.setitem(METHODS, "plain", one._replace(make=Alternating))
    penal = one._replace(make=partial(Alternating, penalty=True))
    monkeypatch.setitem(METHODS, "penal", penal)
    found = [networks(name, "smoke", size=4).loc[TRAINING, "smoke"] for name in ("plain", "penal")]
    # D forward, the gradient of its input, and of that gradient by D's weights.
    assert int(found[1]) - int(found[0]) == 3 * D / 1e6


def test_a_counter_adds_up_what_runs_inside_it_and_no_more():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    a @ b
    with Counter() as counter:
        a @ b
        a + 1
        nn.Conv2d(2, 6, 3, groups=2, padding=1)(torch.ones(4, 2, 10, 9))
    a @ b
    assert counter.total == 2 * 3 * 5 * 7 + 2 * 4 * 6 * 9 * 10 * 9


# Throughput


class Ticking(Method):
    """Scoring takes two seconds a batch and one an image, by a clock of its own."""

    def __init__(self):
        super().__init__()
        self.now, self.batches = 0, []

    def detect(self, x):
        self.now += 2 + len(x)
        self.batches.append(x)
        return Detection({"value": x.mean((1, 2, 3))})


def test_throughput_is_images_by_the_seconds_of_their_batches(monkeypatch):
    method, images = Ticking(), np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    monkeypatch.setattr(costs.time, "perf_counter", lambda: method.now)
    table = throughput(method, images, 1, 2, 8)
    assert list(table.index) == [1, 2, 8]
    assert list(table["images a second"]) == [0.33, 0.5, 0.8]
    assert list(table["ratio"]) == [1, 1.5, 2.4]
    first, *measured = method.batches
    assert len(first) == 1
    assert [len(x) for x in measured] == [1, 1, 1, 1, 2, 2, 8]
    scored = torch.cat(measured).flatten() * 127.5 + 127.5
    assert scored.round().tolist() == [*range(4), *range(4), *range(8)]


def test_compared_methods_stand_in_rows_with_their_time_relative_to_the_first(monkeypatch):
    ticks = {"sagan": 0.2, "sagan_rope": 0.3}
    monkeypatch.setattr(costs, "_timed_steps", lambda name, *_: lambda: ticks[name])
    table = costs.timed("sagan", "sagan_rope", budget="smoke", size=64, channels=1)
    assert list(table.index) == ["sagan", "sagan_rope"]
    assert list(table["ms a step"]) == [100, 150] and list(table["relative"]) == [1, 1.5]
    for name in ticks:
        counted = networks(name, "smoke")["smoke"].dropna().to_dict()
        assert counted == {what: table.loc[name, what] for what in counted}


@pytest.mark.parametrize(
    ("slow", "turns", "ms"), [(4.0, 4, 1000), (19.0, 2, 4750), (40.0, 1, 20_000)]
)
def test_what_is_slow_takes_fewer_turns_and_warms_up_only_if_there_is_a_second(slow, turns, ms):
    taken = []

    def slower_at_first():
        taken.append(slow / (1 if not taken else 2))
        return taken[-1]

    table = costs._in_turns({"fp32": lambda: 1.0, "bf16": slower_at_first})
    assert len(taken) == turns and table["ms a step"]["fp32"] == 500
    assert table["ms a step"]["bf16"] == ms


def test_a_turn_trains_two_steps_and_says_how_long_it_took(monkeypatch):
    taken = []
    original = costs.take_step
    monkeypatch.setattr(costs, "take_step", lambda *a: (taken.append(a[-2:]), original(*a)))
    turn = costs._timed_steps("sagan", "smoke", 64, 1)
    precision = usual_precision(best_device())  # what a training computes in
    assert 0 < turn() < 60 and taken == [(0, precision), (1, precision)]


def test_the_memory_of_a_training_step_is_four_numbers_a_parameter_and_what_autograd_keeps():
    class Two(Method):
        batch_size = 1

        def __init__(self):
            super().__init__()
            self.G = nn.Sequential(nn.Linear(10, 20, bias=False), nn.ReLU(), nn.Linear(20, 5))

        def optimizers(self):
            return {"G": torch.optim.Adam(self.G.parameters())}

        def updates(self, batch, step):
            yield "G", {"loss": self.G(batch.normal.flatten(1)).square().mean()}

    image = torch.zeros(1, 1, 2, 5)
    two = Two()
    before = [p.clone() for p in two.parameters()]
    operations, found = costs.training(two, image, batch_size=7)
    assert all(map(torch.equal, before, two.parameters()))
    # Forward, the gradient of the weights, and that of the second layer's input.
    assert operations == 2 * (2 * 10 * 20 + 3 * 20 * 5)
    weights = 10 * 20 + 20 * 5 + 5
    # Kept for the gradient: the input, the output of the ReLU and that of the network.
    assert found == 16 * weights + 7 * 4 * (10 + 20 + 5)


def test_the_hours_of_a_published_training_are_counted_operations_over_the_rate(monkeypatch):
    monkeypatch.setattr(
        costs, "count",
        lambda *_: dict(parameters=1, score_mflop=2.0, train_mflop=3e6, step_images=32,
                        memory_mib=4.0),
    )  # fmt: skip
    row = costs.thesis_time("sagan", tflops=10.0).loc["sagan"]
    assert row["steps"] == 100_000
    assert row["hours at 10 TFLOP/s"] == round(3e12 * 32 * 100_000 / 1e13 / 3600, 1)


def test_counts_are_those_of_networks_and_a_step_of_alad_takes_two_images_for_each():
    found = costs.count("brainomaly", "smoke")
    table = numbers(smoke("brainomaly"))
    assert round(found["train_mflop"]) == table[TRAINING]
    assert found["parameters"] == sum(n for k, n in table.items() if k.startswith("parameters"))
    assert found["step_images"] == 4 and costs.count("alad", "smoke")["step_images"] == 8
    assert costs.count("pca16", "smoke")["train_mflop"] == 0


def test_the_table_of_costs_is_written_with_the_device_that_was_measured(make_set, project_root):
    from nblib.data import datasets
    from nblib.results import store
    from nblib.training import runs

    dataset = datasets.load(make_set("priced"))
    results = [store.of(runs.run("mean_image", dataset, "smoke", seed)) for seed in (0, 1)]
    rows = costs.cost_table(results)
    assert rows["seconds"][0] == np.mean([r.metrics["seconds"] for r in results])
    printed = costs.write_costs(rows, results)
    assert printed["training s"][0] == f"{rows['seconds'][0]:.0f}" and "MFLOP" in printed.columns[3]
    words = (project_root / "figures" / "priced" / "smoke" / "cost.md").read_text()
    assert results[0].config["device"] in words
