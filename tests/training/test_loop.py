import copy
import tempfile

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from files import full_disk
from nblib.data.batches import HeldOut, Part
from nblib.methods.method import Detection, Method, detect_all
from nblib.training import encoded, loop
from nblib.training.encoded import encode_all
from nblib.training.loop import TrainingError, fit, rate_factor, usual_precision


def part(values):
    """One image of 8 x 8 a value: all pixels have it."""
    images = np.broadcast_to(
        np.array(values, np.uint8)[:, None, None, None], (len(values), 1, 8, 8)
    )
    names = np.array([f"{i}.png" for i in range(len(values))])
    return Part(images.copy(), names, names, np.full((len(values), 2), 8))


NORMAL, UNLABELED = [100, 110, 120, 130, 140, 150], [90, 115, 200, 210, 220]
HELD_NORMAL, HELD_UNLABELED = [95, 105, 125, 135], [60, 104, 180]
DATA = HeldOut(part(NORMAL), part(UNLABELED), part(HELD_NORMAL), part(HELD_UNLABELED))


class Toy(Method):
    """A weight that gradient descent draws to 3; scores are scripted functions of the step."""

    needs = ("normal", "unlabeled")
    batch_size, decay, rate = 2, 1.0, 0.1

    def __init__(self, steps=8):
        super().__init__()
        self.steps = steps
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def optimizers(self):
        return {"W": torch.optim.SGD([self.weight], self.rate)}

    def updates(self, batch, step):
        yield "W", {"distance": (self.weight - 3).square(), "half": 0.5 * self.weight.square()}

    def after_step(self, step):
        self.seen.fill_(step + 1)

    def score(self, x, step):
        return x

    def detect(self, x):
        return Detection(
            {"own": self.score(x.mean((1, 2, 3)), self.seen.item()), "other": -x[:, 0, 0, 0]}
        )


def train(method, **how):
    return fit(method, DATA, **(dict(precision="fp32", device="cpu") | how))


# Rates


def test_the_rate_is_constant_then_linear_to_decay_over_the_second_half():
    assert [rate_factor(step, 8, 0.2) for step in range(9)] == pytest.approx(
        [1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    )


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_a_decay_of_one_keeps_the_rate(steps):
    assert {rate_factor(step, steps, 1.0) for step in range(steps)} == {1.0}


@pytest.mark.parametrize("resumed", [False, True])
def test_each_update_is_made_at_the_rate_of_its_step(resumed, tmp_path):
    """SGD on the toy's sum: w goes down by rate * (2 (w - 3) + w) at each step."""
    expected = w = 0.0
    for step in range(8):
        w -= 0.1 * rate_factor(step, 8, 0.25) * (2 * (w - 3) + w)
    expected = w
    method, how = Toy(), {}
    method.decay = 0.25
    if resumed:
        how = dict(checkpoint=tmp_path / "checkpoint.pt")
        killed = Toy()
        killed.decay = 0.25
        killed.after_step = kill_at(6)
        with pytest.raises(KeyboardInterrupt):
            train(killed, **how)
    train(method, **how)
    assert method.weight.item() == pytest.approx(expected, rel=1e-5)


def kill_at(last):
    def after_step(step):
        if step == last:
            raise KeyboardInterrupt

    return after_step


# The history


def test_the_history_is_the_record_that_one_keeps_by_hand():
    """Steps of 300 are logged three at a time; a row has their means."""
    w, record = 0.0, []
    for _ in range(300):
        slope = 2 * (w - 3) + w
        record.append([(w - 3) ** 2, w**2 / 2, abs(slope)])
        w -= 0.01 * slope
    expected = np.array(record).reshape(100, 3, 3).mean(1)
    method = Toy(steps=300)
    method.rate = 0.01
    history = train(method)
    assert list(history["step"]) == list(range(3, 301, 3))
    found = history[["W.distance", "W.half", "W.gradient_norm"]]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert history.attrs["seconds"] > 0


def test_terms_that_come_every_other_step_are_averaged_over_the_steps_that_have_them():
    class Alternating(Toy):
        def updates(self, batch, step):
            yield "W", {"every": 0 * self.weight + step}
            if step % 2:
                yield "W", {"other": 0 * self.weight + 10 * step}

    history = train(Alternating(steps=300))
    first = history.iloc[:2]
    assert list(first["W.every"]) == [1, 4]  # of 0, 1, 2 and 3, 4, 5
    assert list(first["W.other"]) == [10, 40]  # of 1 and of 3, 5


def test_the_gradient_norm_is_taken_over_all_parameters_of_an_optimiser():
    class Plane(Toy):
        def __init__(self):
            super().__init__(steps=1)
            self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))

        def optimizers(self):
            return {"W": torch.optim.SGD([self.a, self.b, self.weight], 0.1)}

        def updates(self, batch, step):
            yield "W", {"plane": 2 * self.a[0] + 3 * self.a[1] - 6 * self.b[0]}

    assert train(Plane())["W.gradient_norm"].item() == pytest.approx(7)


# AUCp


def areas(score, normal=HELD_NORMAL, trained=UNLABELED, held=HELD_UNLABELED):
    """AUC of held-out normals (0) against unlabeled images (1), by scikit-learn."""
    found = []
    for unlabeled in (trained, held):
        values = [score(v / 127.5 - 1) for v in [*normal, *unlabeled]]
        found.append(roc_auc_score([0] * len(normal) + [1] * len(unlabeled), values))
    return found


def test_aucp_is_scikit_learns_area_of_held_out_normals_against_unlabeled_images():
    history = train(Toy())
    rows = history.dropna()
    assert list(rows["step"]) == [4, 8]
    trained, held = areas(lambda x: x)
    assert 0.5 < trained < 1 and 0 < held < 1 and trained != held
    assert rows["aucp"].tolist() == pytest.approx([trained, trained])
    assert rows["aucp_held_out"].tolist() == pytest.approx([held, held])


def test_the_error_of_the_held_out_aucp_is_hanley_and_mcneils():
    """For 4 held-out normals and 3 held-out unlabeled images, by their equation 2."""
    row = train(Toy()).dropna().iloc[0]
    area = row["aucp_held_out"]
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + 2 * (q1 - area**2) + 3 * (q2 - area**2)
    assert row["aucp_held_out_error"] == pytest.approx((variance / 12) ** 0.5)


def test_aucp_is_nan_where_nothing_is_held_out():
    empty = part([])
    history = fit(Toy(), HeldOut(DATA.normal, DATA.unlabeled, empty, empty), precision="fp32")
    assert history["aucp"].isna().all()


def test_aucp_takes_images_evenly_from_a_long_part(monkeypatch):
    """A part may list one class first; the first images alone would be of one class."""
    monkeypatch.setattr(loop, "AUCP_IMAGES", 4)
    order = [*range(100, 150), *range(200, 250)]
    data = HeldOut(DATA.normal, part(order), DATA.held_normal, DATA.held_unlabeled)
    history = fit(Toy(), data, precision="fp32")
    spread = [100, 133, 216, 249]
    assert history["aucp"].iloc[-1] == pytest.approx(areas(lambda x: x, trained=spread)[0])


class Scripted(Toy):
    """Its scores are best at the checkpoint of step 8 of 4, 8, 12, 16."""

    def score(self, x, step):
        return x * {4: -1.0, 8: 1.0, 12: 0.0, 16: -1.0}[step]


def test_the_choice_aucp_leaves_the_checkpoint_with_the_highest_aucp():
    at_eight = Toy(steps=8)
    train(at_eight)
    method = Scripted(steps=16)
    history = train(method, choice="aucp")
    assert list(history["step"])[-1] == 16
    best = history["aucp"].idxmax()
    assert history["step"][best] == 8
    assert method.seen.item() == 8
    assert method.weight.item() == at_eight.weight.item()


def test_the_choice_last_leaves_the_last():
    method = Scripted(steps=16)
    train(method)
    assert method.seen.item() == 16


@pytest.mark.parametrize("killed_at", [6, 9, 13])
def test_the_choice_aucp_survives_a_kill(killed_at, tmp_path):
    whole, killed, resumed = (Scripted(steps=16) for _ in range(3))
    history = train(whole, choice="aucp")
    checkpoint = tmp_path / "checkpoint.pt"
    original = killed.after_step

    def after_step(step):
        original(step)
        kill_at(killed_at)(step)

    killed.after_step = after_step
    with pytest.raises(KeyboardInterrupt):
        train(killed, choice="aucp", checkpoint=checkpoint)
    assert train(resumed, choice="aucp", checkpoint=checkpoint).equals(history)
    opened = Scripted(steps=16)
    train(opened, choice="aucp", checkpoint=checkpoint)
    for method in resumed, opened:
        assert method.seen.item() == 8
        assert method.weight.item() == whole.weight.item()


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="last or aucp"):
        train(Toy(), choice="best")


# Early stop


class Stopping(Toy):
    """It has enough at the first checkpoint from step 6 on: at 8."""

    def enough(self, held_out):
        self.handed = held_out
        return self.seen.item() >= 6


def test_a_method_that_has_enough_stops_at_that_checkpoint():
    method = Stopping(steps=16)
    history = train(method)
    assert list(history["step"]) == list(range(1, 9))
    assert method.seen.item() == 8
    expected = np.array(HELD_NORMAL) / 127.5 - 1
    assert method.handed.shape == (4, 1, 8, 8)
    np.testing.assert_allclose(method.handed[:, 0, 0, 0], expected, rtol=1e-5)


def test_a_run_that_stopped_early_is_not_trained_on_when_opened_again(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    first, again = Stopping(steps=16), Stopping(steps=16)
    history = train(first, checkpoint=checkpoint)
    again.after_step = kill_at(8)  # would be the next step
    assert train(again, checkpoint=checkpoint).equals(history)
    assert again.weight.item() == first.weight.item()
    assert torch.load(checkpoint)["step"] == 8


def test_a_run_killed_while_it_decided_to_stop_stops_there_when_it_goes_on(tmp_path):
    whole, killed, resumed = (Stopping(steps=16) for _ in range(3))
    history = train(whole)

    def enough(held_out):
        if Stopping.enough(killed, held_out):
            raise KeyboardInterrupt
        return False

    killed.enough = enough
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(killed, checkpoint=checkpoint)
    assert train(resumed, checkpoint=checkpoint).equals(history)
    assert resumed.weight.item() == whole.weight.item()


def test_a_method_that_does_not_train_by_aucp_can_have_enough_too():
    class Searching(Stopping):
        optimises = True

    assert list(train(Searching(steps=16))["step"]) == list(range(1, 9))


# Numbers that are only logged


class Logging(Toy):
    """It logs a number before its update and one after it, which sees the new weight."""

    def updates(self, batch, step):
        yield None, {"before": self.weight.detach().clone(), "step": torch.tensor(7.0 * step)}
        yield from super().updates(batch, step)
        yield None, {"after": self.weight.detach().clone()}


def test_a_yield_without_an_optimiser_is_logged_under_its_own_name():
    history = train(Logging(steps=6))
    assert list(history["before"])[1:] == list(history["after"])[:-1]
    assert history["before"][0] == 0 and history["after"][0] == pytest.approx(0.6)
    assert [name for name in history if "None" in name] == []


def test_a_yield_without_an_optimiser_updates_nothing():
    plain, logging = Toy(steps=6), Logging(steps=6)
    history, noted = train(plain), train(logging)
    assert logging.weight.item() == plain.weight.item()
    columns = ["W.distance", "W.half", "W.gradient_norm"]
    assert noted[columns].equals(history[columns])

    class Idle(Toy):
        def updates(self, batch, step):
            yield None, {"distance": (self.weight - 3).square()}

    idle = Idle(steps=6)
    assert list(train(idle)["distance"]) == [9] * 6
    assert idle.weight.item() == 0 and idle.weight.grad is None


def test_logged_numbers_are_averaged_over_the_steps_of_a_row_that_have_them():
    class Sometimes(Toy):
        def updates(self, batch, step):
            yield from super().updates(batch, step)
            if step % 2:
                yield None, {"odd": torch.tensor(10.0 * step)}

    history = train(Sometimes(steps=300))
    assert list(history["odd"][:2]) == [10, 40]  # of 1 and of 3, 5


def test_a_logged_number_that_is_not_finite_stops_the_training():
    class Broken(Toy):
        def updates(self, batch, step):
            yield None, {"share": torch.tensor(1.0 if step < 5 else float("inf"))}
            yield from super().updates(batch, step)

    with pytest.raises(TrainingError, match=r"^share is inf at step 5:"):
        train(Broken())


# Watching


def test_a_watcher_is_called_at_every_checkpoint_before_it_is_written(tmp_path):
    checkpoint, method, calls = tmp_path / "checkpoint.pt", Toy(steps=12), []

    def watch(watched, step):
        saved = torch.load(checkpoint)["step"] if checkpoint.exists() else None
        calls.append((step, watched is method, watched.seen.item(), saved))

    history = train(method, checkpoint=checkpoint, watch=watch)
    assert calls == [(4, True, 4, None), (8, True, 8, 4), (12, True, 12, 8)]
    assert list(history["step"][history["aucp"].notna()]) == [4, 8, 12]


class Shaky(Toy):
    """A training with chance in it, and an optimiser that remembers."""

    def optimizers(self):
        return {"W": torch.optim.Adam([self.weight], 0.1)}

    def updates(self, batch, step):
        yield "W", {"distance": (self.weight - 3).square(), "noise": self.weight * torch.rand(())}


def disturb(method, step):
    """What a watcher may do: score images, draw numbers, take its time."""
    detect_all(method, DATA.held_unlabeled.images)
    torch.manual_seed(step)
    torch.rand(7)
    np.random.seed(step)
    return "ignored"


@pytest.mark.parametrize("choice", ["last", "aucp"])
def test_watching_changes_nothing_in_the_training(choice, tmp_path):
    alone, watched = Shaky(steps=12), Shaky(steps=12)
    history = train(alone, choice=choice, checkpoint=tmp_path / "alone.pt")
    again = train(watched, choice=choice, checkpoint=tmp_path / "watched.pt", watch=disturb)
    assert again.equals(history)
    assert torch.equal(alone.weight, watched.weight) and watched.training
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("alone", "watched"))
    assert one | {"seconds": 0} == two | {"seconds": 0}


def test_a_run_killed_while_it_is_watched_is_watched_there_again(tmp_path):
    steps = []

    def watch(method, step):
        steps.append(step)
        if steps == [4, 8]:
            raise KeyboardInterrupt

    how = dict(checkpoint=tmp_path / "checkpoint.pt", watch=watch)
    with pytest.raises(KeyboardInterrupt):
        train(Shaky(steps=12), **how)
    whole, resumed = Shaky(steps=12), Shaky(steps=12)
    assert train(resumed, **how).equals(train(whole))
    assert torch.equal(resumed.weight, whole.weight)
    assert steps == [4, 8, 8, 12]
    train(Shaky(steps=12), **how)
    assert steps == [4, 8, 8, 12], "a finished run is not watched when it is opened"


def test_a_run_that_stops_early_is_watched_where_it_stops():
    steps = []
    train(Stopping(steps=16), watch=lambda method, step: steps.append(step))
    assert steps == [4, 8]


# Methods that optimise while they score


class Optimising(Toy):
    optimises = True

    def detect(self, x):
        raise AssertionError("it was scored at a checkpoint")


def test_a_method_that_optimises_while_it_scores_gets_no_aucp():
    history = train(Optimising())
    assert list(history["step"]) == list(range(1, 9))
    assert history[["aucp", "aucp_held_out", "aucp_held_out_error"]].isna().all().all()
    assert train(Toy())["aucp"].notna().any()


def test_a_method_that_optimises_while_it_scores_cannot_be_chosen_by_aucp():
    method = Optimising()
    with pytest.raises(ValueError, match="choice='aucp'"):
        train(method, choice="aucp")
    assert method.weight.item() == 0, "nothing was trained"


# What is not finite


class Broken(Toy):
    """The gradient of the square root of w^2 at w = 0 is not a number, while the loss is."""

    def updates(self, batch, step):
        w = self.weight * 0 if step == 5 else self.weight + 1
        yield "W", {"root": w.square().sqrt()}


def test_a_gradient_that_is_not_finite_stops_though_the_loss_is_finite(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(TrainingError, match=r"^W\.gradient_norm is nan at step 5:"):
        train(Broken(), checkpoint=checkpoint)
    saved = torch.load(checkpoint)
    assert saved["step"] == 4 and saved["method"]["weight"].isfinite()


def test_the_first_step_that_is_not_finite_is_named_among_several_logged_together():
    class Late(Toy):
        def updates(self, batch, step):
            yield "W", {"value": self.weight * (1 if step < 7 else float("nan"))}

    with pytest.raises(TrainingError, match=r"^W\.value is nan at step 7:"):
        train(Late(steps=300))


# Transfers


@pytest.fixture
def transfers(monkeypatch):
    """How often a tensor was taken to Python, which on a GPU would wait for it."""
    calls = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def spy(self, *args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)
    return calls


class Noting(Toy):
    """Note how many transfers there were at the start of each step."""

    def __init__(self, steps, calls):
        super().__init__(steps)
        self.calls, self.counts = calls, []

    def updates(self, batch, step):
        self.counts.append(len(self.calls))
        yield from super().updates(batch, step)

    def after_step(self, step):
        pass

    def detect(self, x):
        return Detection({"own": x.mean((1, 2, 3))})


def test_numbers_are_taken_from_the_device_once_a_row_and_never_within(transfers):
    """At 500 steps a row is of five steps, a checkpoint every fifty."""
    method = Noting(500, transfers)
    history = train(method)
    assert list(history["step"]) == list(range(5, 501, 5))
    counts = np.diff(method.counts)  # between one step and the next
    ends = np.arange(1, 500)
    assert (counts[(ends % 5 != 0)] == 0).all()
    assert (counts[(ends % 5 == 0) & (ends % 50 != 0)] == 1).all()
    assert transfers.count("tolist") == 100


def test_a_method_that_looks_at_its_loss_would_not_pass(transfers):
    class Looking(Noting):
        def updates(self, batch, step):
            for name, terms in super().updates(batch, step):
                if terms["distance"] > 0:
                    yield name, terms

    method = Looking(20, transfers)
    train(method)
    assert (np.diff(method.counts) > 1).all()


# Several optimisers


class Shared(Toy):
    """Two optimisers whose terms come from one forward pass through both their weights."""

    def __init__(self, steps=1):
        super().__init__(steps)
        self.other = nn.Parameter(torch.ones(()))

    def optimizers(self):
        return {k: torch.optim.SGD([getattr(self, k)], 0.1) for k in ("weight", "other")}

    def updates(self, batch, step):
        product = (self.weight + 2) * self.other
        yield "weight", {"product": product}


def test_an_update_leaves_the_other_optimisers_gradients_alone():
    method = Shared()
    method.other.grad = torch.tensor(7.0)
    train(method)
    assert method.weight.grad.item() == 1
    assert method.other.grad.item() == 7
    assert method.weight.item() == pytest.approx(-0.1) and method.other.item() == 1


def test_gradients_of_one_step_are_not_added_to_the_next():
    method = Shared(steps=3)
    train(method)
    assert method.weight.item() == pytest.approx(-0.3)


def test_the_sum_of_the_terms_is_minimised():
    method = Toy(steps=400)
    train(method)
    assert method.weight.item() == pytest.approx(2, abs=1e-4)  # of (w - 3)^2 + w^2 / 2


# Seeds and preparation


class Random(Toy):
    def updates(self, batch, step):
        yield (
            "W",
            {"noise": self.weight * torch.rand(()), "batch": 0 * self.weight + batch.normal.sum()},
        )


@pytest.mark.parametrize("state", [0, 1])
def test_a_training_depends_on_its_seed_and_not_on_the_random_state_it_finds(state):
    torch.manual_seed(state)
    np.random.seed(state)
    found = train(Random(), seed=3)
    torch.manual_seed(99)
    assert found.equals(train(Random(), seed=3))
    assert not found.equals(train(Random(), seed=4))
    assert found["W.batch"].nunique() > 2 and found["W.gradient_norm"].nunique() == 8


class Prepared(Method):
    """A closed form, of which one sees how often and with what it was made."""

    prepared = 0

    def prepare(self, normal, unlabeled, patients):
        assert patients.tolist() == DATA.normal.patients.tolist()
        self.prepared += 1
        self.keep(mean=normal.mean(), other=unlabeled.mean())

    def detect(self, x):
        return Detection({"distance": (x.mean((1, 2, 3)) - self.mean).abs()})


def test_a_closed_form_is_made_once_from_floats_of_what_is_not_held_out(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    first, again = Prepared(), Prepared()
    history = train(first, checkpoint=checkpoint)
    assert len(history) == 0 and history.attrs["seconds"] >= 0
    train(again, checkpoint=checkpoint)
    assert (first.prepared, again.prepared) == (1, 0)
    for method in first, again:
        assert method.mean.item() == pytest.approx(np.mean(NORMAL) / 127.5 - 1, abs=1e-6)
        assert method.other.item() == pytest.approx(np.mean(UNLABELED) / 127.5 - 1, abs=1e-6)


# A frozen encoding


class Encoding(Method):
    """A weight that is drawn to its batches' mean; images are seen as 2 x 2 means, times 3."""

    needs = ("normal", "unlabeled")
    batch_size, steps, decay = 2, 8, 1.0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen, self.encoded, self.made_from = [], [], None

    def encode(self, x):
        self.encoded += x[:, 0, 0, 0].tolist()
        return 3 * nn.functional.avg_pool2d(x, 4).expand(-1, 2, -1, -1)

    def prepare(self, normal, unlabeled, patients):
        self.made_from = normal, unlabeled

    def optimizers(self):
        return {"W": torch.optim.SGD([self.weight], 0.1)}

    def updates(self, batch, step):
        self.seen.append(batch)
        yield "W", {"distance": (self.weight - batch.normal.mean() - batch.unlabeled.mean()) ** 2}

    def detect(self, x):
        assert x.shape[1:] == (2, 2, 2)
        return Detection({"own": x.mean((1, 2, 3)) * self.weight}, x.mean(1).abs())


def encodings(values):
    return 3 * (np.array(values) / 127.5 - 1)


def test_each_image_is_encoded_once_and_batches_closed_form_and_aucp_come_from_that():
    method = Encoding()
    history = train(method)
    images = NORMAL + UNLABELED + HELD_NORMAL + HELD_UNLABELED
    assert sorted(method.encoded) == pytest.approx(sorted(encodings(images) / 3), abs=1e-5)
    for found, values in zip(method.made_from, (NORMAL, UNLABELED), strict=True):
        assert found.shape == (len(values), 2, 2, 2)
        assert np.allclose(found[:, 0, 0, 0], encodings(values), atol=1e-5)
    for part, values in ("normal", NORMAL), ("unlabeled", UNLABELED):
        drawn = torch.cat([getattr(batch, part) for batch in method.seen])
        assert drawn.shape == (16, 2, 2, 2) and drawn.unique().numel() > 3
        distance = np.abs(drawn[:, :1, 0, 0].numpy() - encodings(values)).min(1)
        assert distance.max() < 1e-5
    label = [0] * len(HELD_NORMAL) + [1] * len(HELD_UNLABELED)
    sign = np.sign(method.weight.item())
    expected = roc_auc_score(label, sign * encodings(HELD_NORMAL + HELD_UNLABELED))
    assert history["aucp_held_out"].iloc[-1] == pytest.approx(expected)


def test_an_interrupted_training_on_encodings_goes_on_bit_for_bit(tmp_path):
    whole, checkpoint = Encoding(), tmp_path / "checkpoint.pt"
    history = train(whole)

    def stop(method, step):
        if step == 8:
            raise KeyboardInterrupt

    first, second = Encoding(), Encoding()
    with pytest.raises(KeyboardInterrupt):
        train(first, checkpoint=checkpoint, watch=stop)
    assert train(second, checkpoint=checkpoint).equals(history)
    assert torch.equal(second.weight, whole.weight) and second.made_from is None
    encoded = len(second.encoded)
    third = Encoding()
    train(third, checkpoint=checkpoint)
    assert encoded and not third.encoded  # finished: nothing is left to look at


def test_scores_are_the_same_of_images_and_of_their_encodings_and_maps_fit_the_images():
    method, images = Encoding(), DATA.unlabeled.images
    method.weight.data.fill_(2.0)
    of_images = detect_all(method, images, batch_size=3)
    of_encodings = detect_all(method, encode_all(method, images), batch_size=2)
    assert np.array_equal(of_images.score, of_encodings.score)
    assert of_images.map.shape == (5, 8, 8) and of_encodings.map.shape == (5, 2, 2)
    assert np.allclose(of_images.map, np.abs(encodings(UNLABELED))[:, None, None], atol=1e-5)


def test_encodings_that_do_not_fit_in_memory_lie_in_a_file_and_train_the_same(monkeypatch):
    plain, mapped = Encoding(), Encoding()
    history = train(plain)
    monkeypatch.setattr(encoded, "IN_MEMORY", 0)
    assert isinstance(encode_all(mapped, DATA.normal.images), np.memmap)
    assert train(mapped).equals(history)
    assert torch.equal(mapped.weight, plain.weight)


def test_encodings_that_find_no_room_on_the_disk_are_said_before_any_is_made(monkeypatch):
    """A mapped page without room would kill the process."""
    method = Encoding()
    monkeypatch.setattr(encoded, "IN_MEMORY", 0)
    where = f"{tempfile.gettempdir()} cannot be written: File too large"
    with pytest.raises(OSError, match=where), full_disk(1000):
        encode_all(method, DATA.normal.images)


def test_a_method_without_an_encoding_is_handed_the_images_themselves():
    assert encode_all(Prepared(), DATA.normal.images) is DATA.normal.images


def test_a_closed_form_encodes_only_what_it_needs():
    class Closed(Encoding):
        needs, steps = ("normal",), 0

        def prepare(self, normal, unlabeled, patients):
            self.keep(mean=normal.mean())

        def optimizers(self):
            return {}

    method = Closed()
    train(method)
    assert len(method.encoded) == len(NORMAL)


def test_the_seconds_of_a_run_add_up_over_its_parts(tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)

    class Slow(Toy):
        killed = None

        def after_step(self, step):
            clock.now += 10
            if step == self.killed:
                raise KeyboardInterrupt

    checkpoint, first = tmp_path / "checkpoint.pt", Slow()
    first.killed = 5
    with pytest.raises(KeyboardInterrupt):
        train(first, checkpoint=checkpoint)
    clock.now += 1000
    history = train(Slow(), checkpoint=checkpoint)
    assert history.attrs["seconds"] == pytest.approx(80)  # 4 steps saved, 4 more


def test_the_seconds_that_a_watcher_takes_are_not_counted(tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)

    class Slow(Toy):
        def after_step(self, step):
            clock.now += 10

    def watch(method, step):
        clock.now += 1000

    history = train(Slow(), checkpoint=tmp_path / "checkpoint.pt", watch=watch)
    assert history.attrs["seconds"] == pytest.approx(80)
    assert torch.load(tmp_path / "checkpoint.pt")["seconds"] == pytest.approx(80)


def test_a_finished_checkpoint_holds_no_optimisers(tmp_path):
    train(Toy(), checkpoint=tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["finished"] and saved["optimizers"] == {}


def test_every_processor_trains_in_single_precision_unless_asked(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert usual_precision("cpu") == "fp32"
    with pytest.raises(ValueError, match="precision is 'fp16', but must be fp32 or bf16"):
        train(Toy(steps=1), precision="fp16")


def test_the_precision_is_single_or_bfloat():
    inside = []

    class Looking(Toy):
        def updates(self, batch, step):
            inside.append(torch.is_autocast_enabled("cpu"))
            yield from super().updates(batch, step)

    for precision in "fp32", "bf16":
        method = Looking(steps=1)
        before = copy.deepcopy(method.state_dict())
        train(method, precision=precision)
        assert method.weight.dtype == before["weight"].dtype == torch.float32
    assert inside == [False, True]
