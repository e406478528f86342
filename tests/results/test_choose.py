import numpy as np

from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.results import choose
from nblib.training import runs


def test_the_chosen_images_are_lowest_median_and_highest_of_each_class(make_set):
    dataset = datasets.load(make_set())
    labels, run = load_labels(dataset), runs.run("mean_image", dataset, "smoke")
    chosen = choose.typical(run.test)
    scores = run.scores.query("part == 'test'")["score"].to_numpy()
    for label, positions in ((0, chosen[:3]), (1, chosen[3:])):
        of_class = np.sort(scores[labels.test == label])
        assert (labels.test[positions] == label).all()
        expected = of_class[[0, len(of_class) // 2, -1]]
        assert np.array_equal(scores[positions], expected)


def test_images_are_told_apart_by_what_all_runs_say(make_set):
    dataset = datasets.load(make_set("told", {"test/0": 9, "test/1": 9}))
    found = [runs.run(name, dataset, "smoke") for name in ("mean_image", "pca16")]
    chosen = choose.told_apart(found)
    ranks = []
    for run in found:
        test = run.scores.query("part == 'test'").reset_index(drop=True)
        ranks.append(test["score"].rank(pct=True).to_numpy())
    mean, labels = np.mean(ranks, 0), load_labels(dataset).test
    assert chosen["abnormal, best"] == np.flatnonzero(labels)[mean[labels == 1].argmax()]
    worst = np.flatnonzero(labels)[mean[labels == 1].argmin()]
    assert chosen.get("abnormal, worst", chosen["missed most"]) == worst
    assert chosen["normal, worst"] == np.flatnonzero(labels == 0)[mean[labels == 0].argmax()]
    wrong = np.max(ranks, 0)[chosen["missed most"]]
    assert labels[chosen["missed most"]] == 1 and wrong == np.max(ranks, 0)[labels == 1].min()
