"""What every method of the catalogue owes the loop and the tables; a new one is tested by its name.

What a class owes is tested once a class, what the parts of a variant could break for each variant.
"""

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from nblib.data.batches import Batches, HeldOut, Part, step_seed, to_float
from nblib.methods.catalogue import METHODS
from nblib.methods.losses import gradient_penalty
from nblib.methods.method import Detection, Method, detect_all
from nblib.training import budgets, loop
from nblib.training.loop import TrainingError, fit

SIZE, SEED = 32, 5
SMALL = {"critic_layers": 4, "pixels": 224}
"""Overrides for methods that have such an argument: the images here are small."""


def build(name, seed=SEED, **overrides):
    known = budgets.arguments(name, "smoke", size=SIZE)
    arguments = {k: v for k, v in SMALL.items() if k in known} | overrides
    torch.manual_seed(seed)
    return METHODS[name].make(**budgets.arguments(name, "smoke", size=SIZE, **arguments))


ALL = list(METHODS)
TRAINED = [name for name in ALL if build(name).optimizers()]
CLOSED = list({METHODS[n].kind: n for n in reversed(ALL) if n not in TRAINED}.values())
ONE_A_CLASS = [name for name in TRAINED if not METHODS[name].fixed]
LAST_CHECKPOINT, KILLED_AT = 4, 5  # of the eight steps of the smoke budget


def pictures(count, seed, spots=False):
    """Smooth grey images that differ a little, uint8; with `spots` a bright disc on each."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    waves = random.normal(0, 4, (count, 3, 1, 1))
    images = 60 + 50 * np.exp(-2 * (x**2 + y**2))
    images = images + (waves * np.stack([x, y, x * y])).sum(1) + random.normal(0, 1, (count, 1, 1))
    images = images + random.normal(0, 1, images.shape)
    if spots:
        images = images + 110 * discs(count, random)
    return images.round().clip(0, 255).astype(np.uint8)[:, None]


def discs(count, random):
    rows, columns = random.integers(8, SIZE - 8, (2, count, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE]
    return (y - rows) ** 2 + (x - columns) ** 2 < 36


def part(images, first):
    names = np.array([f"{first + i}.png" for i in range(len(images))])
    return Part(images, names, names, np.full((len(images), 2), SIZE))


@functools.cache
def held_out():
    unlabeled = np.concatenate([pictures(12, 2), pictures(12, 3, spots=True)])
    held_unlabeled = np.concatenate([pictures(4, 5), pictures(4, 6, spots=True)])
    return HeldOut(
        part(pictures(40, 1), 0),
        part(unlabeled, 100),
        part(pictures(8, 4), 200),
        part(held_unlabeled, 300),
    )


def train(method, seed=SEED, **how):
    return fit(method, held_out(), seed, **(dict(precision="fp32", device="cpu") | how))


@functools.cache
def trained(name):
    """The method after an uninterrupted training, and its history."""
    method = build(name)
    return method, train(method)


@functools.cache
def ready(name):
    """The method as it scores: trained, a variant for two steps alone."""
    if name not in TRAINED or name in ONE_A_CLASS:
        return trained(name)[0]
    method = build(name, steps=2)
    train(method)
    return method


def scored(method, images):
    """`detect_all` in one batch, as tensors."""
    method.eval()
    found = detect_all(method, images, len(images))
    scores = {name: torch.from_numpy(values) for name, values in found.scores.items()}
    others = [None if v is None else torch.from_numpy(v) for v in (found.map, found.restored)]
    return Detection(scores, *others)


def bits(state):
    return {name: value.clone() for name, value in state.items()}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# Chance, order and resumption


@pytest.mark.parametrize("name", CLOSED + ONE_A_CLASS)
def test_the_same_seed_gives_the_same_scores(name):
    first, history = trained(name)
    second = build(name)
    assert train(second).equals(history)
    assert_same_bits(first.state_dict(), second.state_dict())
    images = held_out().unlabeled.images
    for one, other in zip(
        scored(first, images).scores.values(), scored(second, images).scores.values(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ONE_A_CLASS)
def test_another_seed_gives_other_scores(name):
    other, images = build(name, SEED + 1, steps=2), held_out().unlabeled.images
    train(other, SEED + 1)
    one, two = (scored(m, images).score for m in (trained(name)[0], other))
    assert not torch.allclose(one, two, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_judged_the_same_alone_in_a_batch_and_in_another_order(name):
    method, images = ready(name), held_out().unlabeled.images[4:20]
    order = np.random.default_rng(0).permutation(len(images))
    together, shuffled = scored(method, images), scored(method, images[order])
    alone = [scored(method, images[i : i + 1]) for i in range(len(images))]
    for key, scores in together.scores.items():
        # A maximum is one pixel, and as close as pixels of the map are.
        close = 1e-3 if key == "map maximum" else 1e-5
        tolerance = dict(rtol=close, atol=close / 10 * scores.abs().max().item())
        torch.testing.assert_close(scores[order], shuffled.scores[key], **tolerance)
        torch.testing.assert_close(scores, torch.cat([a.scores[key] for a in alone]), **tolerance)
    for what in ("map", "restored"):
        if (values := getattr(together, what)) is not None:
            singles = torch.cat([getattr(a, what) for a in alone])
            torch.testing.assert_close(values, singles, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_scoring_changes_nothing_in_a_method_and_has_no_chance_in_it(name):
    method, images = ready(name), held_out().unlabeled.images
    before = bits(method.state_dict())
    first, second = detect_all(method, images), detect_all(method, images)
    assert all(np.array_equal(first.scores[key], second.scores[key]) for key in first.scores)
    assert_same_bits(before, method.state_dict())


@pytest.mark.parametrize("name", CLOSED + ONE_A_CLASS)
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    reference, history = trained(name)
    checkpoint = tmp_path / "checkpoint.pt"
    killed = build(name)
    if name in TRAINED:
        own = killed.after_step

        def after_step(step):
            if step == KILLED_AT:
                raise KeyboardInterrupt
            own(step)

        killed.after_step = after_step
        with pytest.raises(KeyboardInterrupt):
            train(killed, checkpoint=checkpoint)
        assert torch.load(checkpoint)["step"] == LAST_CHECKPOINT
    else:
        train(killed, checkpoint=checkpoint)
    resumed = build(name, seed=SEED + 1)
    assert train(resumed, checkpoint=checkpoint).equals(history)
    assert_same_bits(reference.state_dict(), resumed.state_dict())

    finished = build(name, seed=SEED + 2)
    assert train(finished, checkpoint=checkpoint).equals(history)
    assert_same_bits(reference.state_dict(), finished.state_dict())


@pytest.mark.parametrize("name", ALL)
def test_a_state_that_is_loaded_into_a_fresh_method_gives_the_same_scores(name):
    method, images = ready(name), held_out().unlabeled.images
    fresh = build(name, seed=SEED + 3)
    fresh.load_state(bits(method.state_dict()))
    for key, scores in scored(method, images).scores.items():
        assert torch.equal(scores, scored(fresh, images).scores[key])


# Gradients


def owners(method):
    return {
        name: [p for group in optimizer.param_groups for p in group["params"]]
        for name, optimizer in method.optimizers().items()
    }


@pytest.mark.parametrize("name", ALL)
def test_each_parameter_is_owned_by_one_optimiser(name):
    method = build(name)
    owned = [id(p) for parameters in owners(method).values() for p in parameters]
    assert sorted(owned) == sorted(id(p) for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", TRAINED)
def test_within_two_steps_a_gradient_reaches_each_parameter_but_the_known_zeros(name):
    """A known zero is not exactly zero but rounding: far below the optimiser's largest.

    The weights start a little off their initial values, of which some, such as biases of zero,
    are special: a norm behind a norm cancels the scale of the first until its bias has moved.
    """
    method = build(name, steps=2)
    with torch.no_grad():
        for p in method.parameters():
            p += 0.05 * torch.randn_like(p)
    trained = {key: p for key, p in method.named_parameters() if p.requires_grad}
    largest = dict.fromkeys(trained, 0.0)

    def after_step(step):
        for key, p in trained.items():
            if p.grad is not None:
                largest[key] = max(largest[key], p.grad.abs().max().item())

    method.after_step = after_step
    train(method)
    of_optimizer = {id(p): k for k, parameters in owners(method).items() for p in parameters}
    scale = dict.fromkeys(method.optimizers(), 0.0)
    for key, p in trained.items():
        owner = of_optimizer[id(p)]
        scale[owner] = max(scale[owner], largest[key])
    reached = {key: largest[key] > 3e-5 * scale[of_optimizer[id(p)]] for key, p in trained.items()}
    zero = {key for key in reached if any(part in key for part in method.known_zeros)}
    assert [key for key in reached if not reached[key] and key not in zero] == []
    assert [key for key in zero if reached[key]] == []


# Terms, modes and precision


def spied(method):
    """Note of each step of a training its batch, and before each update the weights; its terms."""
    original, steps = method.updates, []

    def updates(batch, step):
        inner, moments = original(batch, step), []
        steps.append((step, batch, moments))
        while True:
            then = copy.deepcopy(method)
            del then.updates
            modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
            update = next(inner, None)
            assert modes == (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
            if update is None:
                return
            moments.append((then, {key: value.item() for key, value in update[1].items()}))
            yield update

    method.updates = updates
    return steps


def assert_terms_are_those_of_their_moment(steps, precision):
    """Replay each step update by update, put the weights of each moment in place, and compare.

    What a method keeps from before an update, as GANomaly does, is replayed with it.
    """
    assert steps
    for step, batch, moments in steps:
        torch.manual_seed(step_seed(SEED, step))
        replayed = copy.deepcopy(moments[0][0])
        updates = replayed.updates(batch, step)
        for then, terms in moments:
            replayed.load_state_dict(then.state_dict())
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                _, again = next(updates)
            assert {k: v.item() for k, v in again.items()} == pytest.approx(terms, rel=1e-5)


@pytest.mark.parametrize(
    "name, precision, steps",
    [(name, "fp32", 4) for name in ONE_A_CLASS] + [(name, "bf16", 2) for name in TRAINED],
)
def test_every_term_is_its_recomputation_with_the_weights_of_that_moment(name, precision, steps):
    method = build(name, steps=steps)
    steps = spied(method)
    train(method, precision=precision)
    assert_terms_are_those_of_their_moment(steps, precision)


class Pair(Method):
    """A critic and a generator of one layer each, both of which autocast computes in bf16."""

    batch_size, steps, decay = 4, 4, 1.0

    def __init__(self):
        super().__init__()
        self.G, self.D = nn.Linear(SIZE * SIZE, 8), nn.Linear(8, 1)

    def optimizers(self):
        return {k: torch.optim.SGD(getattr(self, k).parameters(), 0.5) for k in ("D", "G")}

    def updates(self, batch, step):
        with torch.no_grad():
            made = self.G(batch.normal.flatten(1))
        yield "D", {"value": self.D(made).mean()}
        yield "G", {"value": -self.D(self.G(batch.normal.flatten(1))).mean()}

    def detect(self, x):
        raise NotImplementedError


def pair_steps(precision):
    torch.manual_seed(0)
    method = Pair()
    steps = spied(method)
    data = dataclasses.replace(held_out(), held_normal=part(pictures(0, 0), 0))
    fit(method, data, SEED, precision=precision, device="cpu")
    return steps


def test_one_region_of_autocast_round_both_updates_would_not_pass(monkeypatch):
    assert_terms_are_those_of_their_moment(pair_steps("bf16"), "bf16")
    monkeypatch.setattr(loop, "next_update", lambda updates, *_: next(updates, None))
    with torch.autocast("cpu", torch.bfloat16):
        steps = pair_steps("bf16")
    with pytest.raises(AssertionError):
        assert_terms_are_those_of_their_moment(steps, "bf16")


class Leaky(Pair):
    """It yields inside a `with`, which it must not."""

    def updates(self, batch, step):
        with torch.no_grad():
            yield "D", {"value": self.D(self.G(batch.normal.flatten(1))).mean()}


def test_a_yield_inside_a_with_would_not_pass():
    method = Leaky()
    spied(method)
    data = Batches(held_out().normal.images, held_out().unlabeled.images, ("normal",), 4, 0)
    with pytest.raises(AssertionError):
        next(method.updates(data(0), 0))
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ONE_A_CLASS)
def test_after_every_yield_the_modes_of_gradient_and_autocast_are_as_before(name, precision):
    method, data = build(name), held_out()
    batch = Batches(data.normal.images, data.unlabeled.images, method.needs, 4, SEED)(0)
    modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    for step in range(2):
        updates = method.updates(batch, step)
        while loop.next_update(updates, "cpu", precision) is not None:
            assert modes == (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
    spied(method)  # asserts the same inside the region of autocast
    list(method.updates(batch, 1))


@pytest.mark.parametrize("name", ONE_A_CLASS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stops_with_its_name_and_step(name, value, tmp_path):
    method, checkpoint = build(name), tmp_path / "checkpoint.pt"
    original, poisoned = method.updates, []

    def updates(batch, step):
        for optimizer, terms in original(batch, step):
            if step == KILLED_AT:
                term = next(iter(terms))
                poisoned.append(f"{optimizer}.{term}")
                terms = terms | {term: terms[term] * value}
            yield optimizer, terms

    method.updates = updates
    with pytest.raises(TrainingError) as error:
        train(method, checkpoint=checkpoint)
    assert str(error.value).startswith(f"{poisoned[0]} is ")
    assert f" at step {KILLED_AT}:" in str(error.value)
    saved = torch.load(checkpoint)
    assert saved["step"] == LAST_CHECKPOINT
    assert all(tensor.isfinite().all() for tensor in saved["method"].values())
    resumed = build(name)
    train(resumed, checkpoint=checkpoint)
    assert_same_bits(resumed.state_dict(), trained(name)[0].state_dict())


# Detection


@pytest.mark.parametrize("name", ALL)
def test_detection_has_the_promised_shapes_and_ranges(name):
    method, images = ready(name), held_out().unlabeled.images
    found, n = scored(method, images), len(images)
    assert found.scores
    for scores in found.scores.values():
        assert scores.shape == (n,) and scores.isfinite().all()
        assert scores.unique().numel() > n // 2, "it tells images apart"
    if found.map is not None:
        assert found.map.shape == (n, SIZE, SIZE) and found.map.isfinite().all()
        assert found.map.min() >= 0
    if found.restored is not None:
        assert found.restored.shape == images.shape and found.restored.isfinite().all()
        assert found.restored.abs().max() <= 1


@pytest.mark.parametrize("name", ALL)
def test_a_black_and_a_white_image_are_judged_within_the_promised_ranges(name):
    shape = (1, SIZE, SIZE)
    extremes = np.stack([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)])
    found = detect_all(ready(name), extremes)
    for values in [*found.scores.values(), found.map, found.restored]:
        assert values is None or np.isfinite(values).all()
    assert found.map is None or found.map.min() >= 0
    if found.restored is not None and not name.startswith("pca"):  # a projection may step over
        assert np.abs(found.restored).max() <= 1


@pytest.mark.parametrize("name", [name for name in ALL if name not in TRAINED])
def test_a_bright_spot_on_normal_images_raises_score_and_map(name):
    """Methods that train are asked for this only after more than a handful of steps."""
    normal = held_out().held_normal.images
    where = discs(len(normal), np.random.default_rng(9))
    painted = (normal + 110.0 * where[:, None]).clip(0, 255).astype(np.uint8)
    before, after = (scored(trained(name)[0], images) for images in (normal, painted))
    for key, scores in before.scores.items():
        assert after.scores[key].mean() > scores.mean() + scores.std()
    if after.map is not None:
        inside, outside = after.map.numpy()[where], after.map.numpy()[~where]
        assert inside.mean() > 2 * outside.mean()
        assert inside.mean() > 2 * before.map.numpy()[where].mean()


# Compiled networks


@pytest.mark.parametrize("name", ONE_A_CLASS)
def test_compiled_networks_keep_the_names_and_numbers_of_the_state(name):
    plain, compiled = build(name, steps=2), build(name, steps=2)
    names = list(compiled.state_dict())
    data = dataclasses.replace(held_out(), held_normal=part(pictures(0, 0), 0))
    history, compiled_history = (
        fit(method, data, SEED, precision="fp32", device="cpu", compile=how)
        for method, how in ((plain, False), (compiled, "eager"))
    )
    assert any(m._compiled_call_impl for m in compiled.children())
    assert list(compiled.state_dict()) == names
    assert list(history) == list(compiled_history)
    np.testing.assert_allclose(history, compiled_history, rtol=1e-4)
    build(name).load_state(compiled.state_dict())


def test_the_penalty_differentiates_through_a_compiled_critic_by_its_forward():
    """Backends with a backward of their own have no second one: the critic itself fails."""
    D = build("sagan").D
    real, fake = to_float(torch.from_numpy(pictures(4, 0))), torch.zeros(4, 1, SIZE, SIZE)

    def gradient():
        torch.manual_seed(0)
        penalty = gradient_penalty(D.forward, real, fake)
        return torch.autograd.grad(penalty, D.layers[0].weight)[0]

    expected = gradient()
    D.compile(backend="aot_eager")
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(), expected)
    with pytest.raises(RuntimeError):
        gradient_penalty(D, real, fake).backward()
