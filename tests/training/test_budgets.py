import pytest

from nblib.methods.catalogue import FAMILIES, METHODS
from nblib.methods.sagan import SAGAN
from nblib.training import budgets

VARIANTS = [name for name in METHODS if name.startswith(("sagan", "brainomaly_features"))]


def test_the_thesis_budget_is_the_published_size_and_length():
    published = budgets.arguments("sagan", "thesis")
    assert {"width": 64, "grid": 2, "critic_layers": 6, "lr": 5e-5}.items() <= published.items()
    assert {"batch_size": 32, "steps": 100_000, "decay": 1.0}.items() <= published.items()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("budget", budgets.BUDGETS)
def test_a_variant_has_its_familys_budget_and_its_own_parts(name, budget):
    of = "brainomaly_features" if "features" in name else "sagan"
    plain, variant = (budgets.arguments(method, budget) for method in (of, name))
    own = METHODS[name].fixed
    assert variant == plain | own
    assert not own.keys() & {"width", "steps", "batch_size", "lr", "decay", "critic_layers"}


def test_every_method_can_be_built_from_its_arguments_at_every_budget_but_the_large_one():
    for method in METHODS:
        for budget in set(budgets.BUDGETS) - {"thesis"}:
            for size in (32, 64):  # of the drawn set, and of others
                METHODS[method].make(**budgets.arguments(method, budget, size, channels=1))


def test_budgets_grow():
    steps = [budgets.arguments("sagan", b)["steps"] for b in budgets.BUDGETS]
    assert list(budgets.BUDGETS) == ["smoke", "quick", "places", "laptop", "thesis"]
    assert steps == sorted(steps) and len(set(steps)) == 4


def test_overrides_go_before_the_budget():
    assert budgets.arguments("sagan", "quick", steps=5)["steps"] == 5
    assert METHODS["sagan_place_acts"].kind is SAGAN


@pytest.mark.parametrize(
    "call, words",
    [
        (("sagn", "quick", {}), "There are: mean_intensity"),
        (("sagan", "fast", {}), "There are: smoke, quick, places, laptop, thesis"),
        (("sagan", "quick", {"widht": 8}), "no argument widht. It has: .*width"),
    ],
)
def test_what_is_unknown_is_named_with_what_there_is(call, words):
    method, budget, overrides = call
    with pytest.raises(ValueError, match=words):
        budgets.arguments(method, budget, **overrides)


def test_all_methods_of_a_family_train_the_same_number_of_steps():
    for budget in ("smoke", "quick", "laptop"):
        steps = {"translation": set(), "one class": set(), "features": set()}
        for name, found in METHODS.items():
            if trains := FAMILIES[found.family].trains:
                steps[trains].add(budgets.arguments(name, budget)["steps"])
        assert [len(numbers) for numbers in steps.values()] == [1, 1, 1]


def test_numbers_that_one_method_alone_has_stand_on_its_class():
    of = {name: [budgets.arguments(name, b) for b in budgets.BUDGETS] for name in METHODS}
    assert [given["search_steps"] for given in of["anogan"]] == [5, 50, 500, 100, 500]
    assert [given["average"] for given in of["alad"]] == [0.5, 0.98, 0.999, 0.99, 0.999]
    assert [given["pixels"] for given in of["pretrained_knn"]] == [64, 112, 224, 224, 224]


def test_the_published_lengths_and_rates_are_the_defaults():
    published = {
        "anogan": (30_000, 64, 2e-4),
        "alad": (30_000, 32, 2e-4),
        "alocc": (30_000, 128, 2e-4),
        "ganomaly": (30_000, 64, 2e-4),
        "healthygan": (200_000, 16, 1e-4),
        "brainomaly": (200_000, 16, 1e-4),
        "sagan": (100_000, 32, 5e-5),
    }
    for method, (steps, batch_size, lr) in published.items():
        arguments = budgets.arguments(method, "thesis")
        assert (arguments["steps"], arguments["batch_size"], arguments["lr"]) == (
            steps, batch_size, lr,
        )  # fmt: skip
        assert arguments["width"] == 64 and arguments["decay"] == 1.0


def test_every_method_that_trains_is_shorter_than_published_at_the_smaller_budgets():
    """A method without a budget's row would train for days in a test."""
    trained = [name for name in METHODS if "steps" in budgets.arguments(name, "thesis")]
    assert len(trained) > 20
    for name in trained:
        steps = [budgets.arguments(name, budget)["steps"] for budget in budgets.BUDGETS]
        if FAMILIES[METHODS[name].family].trains == "features":  # nothing is published
            assert steps[0] < steps[1] == steps[-1] <= 500
            continue
        shorter = steps == sorted(steps) and steps[-2] < steps[-1]
        assert shorter, f"{name} takes no row of the budgets"
