"""Breaks the code on purpose, one place at a time, and says whether the tests notice.

    .venv/bin/python tests/mutate.py            every mutation: a quarter of an hour on one core
    .venv/bin/python tests/mutate.py WORD...    those whose file or text contains one of the words

To be run before and after the tests are made fewer: what was noticed must be noticed still. Works
in a copy; ends with an error where a mutation is not noticed, or no longer fits the code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parent.parent


class Mutation(NamedTuple):
    """A plausible mistake: `new` in place of `old`, which occurs once in `file`.

    tests: what pytest is given of those that should notice.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = [
    # The training loop
    Mutation(
        "nblib/training/loop.py",
        "return next(updates, None)",
        "return (torch.autocast_increment_nesting(), next(updates, None))[1]",  # never ends
        ("tests/test_contract.py", "-k", "autocast"),
    ),
    Mutation(
        "nblib/training/loop.py",
        'owned = [p for group in optimizer.param_groups for p in group["params"]]',
        "owned = list(method.parameters())",
        ("tests/training/test_loop.py",),
    ),
    Mutation(
        "nblib/training/loop.py",
        "max(0.0, 2 * step / steps - 1)",
        "max(0.0, 2 * (step + 1) / steps - 1)",
        ("tests/training/test_loop.py",),
    ),
    Mutation(
        "nblib/training/loop.py",
        "torch.manual_seed(step_seed(seed, step))",
        "torch.manual_seed(step_seed(seed, step - start))",
        ("tests/test_contract.py", "-k", "resumed and alocc"),
    ),
    Mutation(
        "nblib/training/loop.py",
        "if not np.isfinite(value)",
        "if np.isnan(value)",
        ("tests/test_contract.py", "-k", "finite and brainomaly"),
    ),
    Mutation(
        "nblib/training/loop.py",
        "{k: v.clone() for k, v in method.state_dict().items()}",
        "{k: v for k, v in method.state_dict().items()}",
        ("tests/training/test_loop.py",),
    ),
    # The contract
    Mutation(
        "nblib/methods/method.py",
        "    method.eval()\n",
        "    method.train()\n",
        ("tests/test_contract.py", "-k", "chance and sagan"),
    ),
    # GANs: losses, graphs, order of updates, scores
    Mutation(
        "nblib/methods/anogan.py",
        "as_generated(self.D(generated.detach()))",
        "as_generated(self.D(generated))",
        ("tests/methods/test_anogan.py",),
    ),
    Mutation(
        "nblib/methods/anogan.py",
        "better = loss.detach() < best",
        "better = loss.detach() < torch.inf",
        ("tests/methods/test_anogan.py",),
    ),
    Mutation(
        "nblib/methods/alad.py",
        "self._pairs(second, graph=True)",
        "self._pairs(first, graph=True)",
        ("tests/methods/test_alad.py",),
    ),
    Mutation(
        "nblib/methods/alad.py",
        '"logit": -D(x, restored)',
        '"logit": D(x, restored)',
        ("tests/methods/test_alad.py",),
    ),
    Mutation(
        "nblib/methods/alocc.py",
        "self.lambda_r * (x - restored)",
        "self.lambda_r * (noisy - restored)",
        ("tests/methods/test_alocc.py",),
    ),
    Mutation(
        "nblib/methods/ganomaly.py",
        'yield "D", terms',
        'yield "D", self.critic_terms(x, self.G(x)[1].detach())',
        ("tests/methods/test_ganomaly.py",),
    ),
    Mutation(
        "nblib/methods/healthygan.py",
        "masked(u_int, u, u_mask)",
        "masked(u, u_int, u_mask)",
        ("tests/methods/test_healthygan.py",),
    ),
    Mutation(
        "nblib/methods/brainomaly.py",
        "-self.D(u_healthy).mean()",
        "self.D(u_healthy).mean()",
        ("tests/methods/test_brainomaly.py",),
    ),
    Mutation(
        "nblib/methods/sagan.py",
        '(n - restored["pseudo"])',
        '(batch.pseudo - restored["pseudo"])',
        ("tests/methods/test_sagan.py",),
    ),
    Mutation(
        "nblib/methods/sagan.py",
        "r = torch.where(kept, r, x)",
        "r = torch.where(kept, r, 0)",
        ("tests/methods/test_sagan.py",),
    ),
    Mutation(
        "nblib/methods/sagan.py",
        "self.gate2(o1, s2)",
        "self.gate2(s2, o1)",
        ("tests/methods/test_authors.py",),
    ),
    Mutation(
        "nblib/methods/swin.py",
        "forward_intermediates(x, norm=True,",
        "forward_intermediates(x, norm=False,",
        ("tests/methods/test_swin.py",),
    ),
    # What does not train
    Mutation(
        "nblib/methods/pretrained.py",
        "topk(k, largest=False).values.mean(1)",
        "topk(k, largest=False).values.amax(1)",
        ("tests/methods/test_pretrained.py", "-k", "not real_sets"),
    ),
    Mutation(
        "nblib/methods/trivial.py",
        "_principal_components(both, self.components)",
        "_principal_components(normal, self.components)",
        ("tests/methods/test_trivial.py", "-k", "not real_sets"),
    ),
    # Layers
    Mutation(
        "nblib/methods/layers.py",
        "nn.GroupNorm(channels, channels,",
        "nn.GroupNorm(1, channels,",
        ("tests/methods/test_layers.py",),
    ),
    Mutation(
        "nblib/methods/layers.py",
        "torch.relu(self.norm(self.mix(self.code(x))))",
        "self.norm(torch.relu(self.mix(self.code(x))))",
        ("tests/methods/test_layers.py",),
    ),
    Mutation(
        "nblib/methods/layers.py",
        "return skip * self.attention(deeper, skip)",
        "return deeper * self.attention(deeper, skip)",
        ("tests/methods/test_layers.py",),
    ),
    Mutation(
        "nblib/methods/layers.py",
        "x.permute(0, 2, 4, 1, 3, 5)",
        "x.permute(0, 4, 2, 1, 3, 5)",
        ("tests/methods/test_layers.py",),
    ),
    Mutation(
        "nblib/methods/layers.py",
        "nn.init.kaiming_normal_(layer.weight, a=0.01)",
        "nn.init.xavier_normal_(layer.weight)",
        ("tests/methods/test_layers.py",),
    ),
    # Encodings
    Mutation(
        "nblib/methods/encodings.py",
        "bits = range(self.channels - 1, -1, -1)",
        "bits = range(self.channels)",
        ("tests/methods/test_encodings.py",),
    ),
    Mutation(
        "nblib/methods/encodings.py",
        "build_sincos2d_pos_embed(shape, self.channels,",
        "build_sincos2d_pos_embed(shape, self.channels, reverse_coord=True,",
        ("tests/methods/test_encodings.py",),
    ),
    Mutation(
        "nblib/methods/encodings.py",
        "apply_rot_embed_cat(k, angles)",
        "k",
        ("tests/methods/test_encodings.py",),
    ),
    Mutation(
        "nblib/methods/encodings.py",
        "torch.arange(1, heads + 1)",
        "torch.arange(heads)",
        ("tests/methods/test_encodings.py",),
    ),
    Mutation(
        "nblib/methods/encodings.py",
        "lookup = copy.deepcopy(lookup)",
        "lookup = copy.copy(lookup)",
        ("tests/methods/test_encodings.py",),
    ),
    Mutation(
        "nblib/methods/encodings.py",
        "self.norm(self.out(attended.transpose(1, 2).reshape(b, h * w, c)))",
        "self.out(self.norm(attended.transpose(1, 2).reshape(b, h * w, c)))",
        ("tests/methods/test_encodings.py",),
    ),
    # Losses, pseudo-anomalies, batches
    Mutation(
        "nblib/methods/losses.py",
        "gradient.flatten(1).norm(dim=1)",
        "gradient.norm(dim=1)",
        ("tests/methods/test_losses.py",),
    ),
    Mutation(
        "nblib/data/batches.py",
        "(rows < row + half)",
        "(rows <= row + half)",
        ("tests/data/test_batches.py",),
    ),
    Mutation(
        "nblib/data/batches.py",
        "random.integers(1, n, self.batch_size)",
        "random.integers(n, size=self.batch_size)",
        ("tests/data/test_batches.py",),
    ),
    # Numbers and their intervals
    Mutation(
        "nblib/metrics.py",
        "true - true_step / 2)",
        "true - true_step)",
        ("tests/test_metrics.py",),
    ),
    Mutation(
        "nblib/metrics.py",
        "np.ceil(specificity * (len(held_out) + 1))",
        "np.ceil(specificity * len(held_out))",
        ("tests/test_metrics.py",),
    ),
    Mutation(
        "nblib/metrics.py",
        "for stratum in ([True, False], [False, True], [True, True])",
        "for stratum in ([True, False], [False, True])",
        ("tests/test_metrics.py",),
    ),
    Mutation(
        "nblib/metrics.py",
        "(highest & masks).sum((1, 2)) / highest.sum((1, 2))",
        "(highest & masks).any((1, 2))",
        ("tests/test_metrics.py",),
    ),
    Mutation(
        "nblib/metrics.py",
        'test["score"].to_numpy() > cut',
        'test["score"].to_numpy() >= cut',
        ("tests/test_metrics.py",),
    ),
    Mutation(
        "nblib/metrics.py",
        "np.sqrt(count / (count - 1))",
        "1",
        ("tests/test_metrics.py",),
    ),
    # Verdicts and tables
    Mutation(
        "nblib/results/differences.py",
        "np.ones(family - len(p))",
        "np.ones(0)",
        ("tests/results/test_differences.py",),
    ),
    Mutation(
        "nblib/results/verdicts.py",
        "low, high = found.interval(0.9)",
        "low, high = found.interval()",
        ("tests/results/test_verdicts.py", "-k", "not true_difference and not power"),
    ),
    Mutation(
        "nblib/results/differences.py",
        "-stdtrit(k - 1, tail)",
        "-stdtrit(k, tail)",
        ("tests/results/test_differences.py",),
    ),
    Mutation(
        "nblib/results/tables.py",
        "bounded_interval(area, found.auc.mean(0),",
        "bounded_interval(area, found.auc[0],",
        ("tests/test_collection.py", "-k", "committed_table"),
    ),
    Mutation(
        "nblib/results/store.py",
        "sorted(keys, key=lambda k: (catalogue.order(k[0]), *k[1:]))",
        "sorted(keys)",
        ("tests/test_collection.py", "-k", "committed_table"),
    ),
    # Runs, sets, and what is made of them
    Mutation(
        "nblib/training/runs.py",
        'if other or config["code"] != code:',
        "if other:",
        ("tests/training/test_runs.py",),
    ),
    Mutation(
        "nblib/training/runs.py",
        'finished = (here / "metrics.json").exists()',
        'finished = (here / "scores.csv").exists()',
        ("tests/test_snakefile.py", "-k", "an_edit"),  # Snakemake takes metrics.json away
    ),
    Mutation(
        "nblib/data/split.py",
        "for other in names[i + 1 :]:",
        "for other in names[i + 1 : i + 2]:",
        ("tests/data/test_datasets.py", "-k", "patient"),
    ),
    Mutation(
        "nblib/data/datasets.py",
        "held |= patients == patient",
        "held[np.argmax(patients == patient)] = True",
        ("tests/data/test_datasets.py", "-k", "held"),
    ),
    Mutation(
        "nblib/results/robustness.py",
        '(pixels, pixels)), "edge")',
        '(pixels, pixels)), "reflect")',
        ("tests/results/test_robustness.py",),
    ),
    Mutation(
        "nblib/results/perceptual.py",
        "/ f.abs().sum(",
        "/ f_restored.abs().sum(",
        ("tests/results/test_perceptual.py", "-k", "formulas"),
    ),
    Mutation(
        "nblib/training/scoring.py",
        "metrics.threshold(run.held_out)",
        "metrics.threshold(run.held_out, 0.9)",
        ("tests/training/test_scoring.py",),
    ),
    Mutation(
        "nblib/results/costs.py",
        "counter.total / 2 / method.batch_size",
        "counter.total / method.batch_size",
        ("tests/results/test_costs.py",),
    ),
    Mutation(
        "nblib/data/phantom.py",
        "first = max([first] + [int(patient) + 1",
        "first = max([first] + [int(patient)",
        ("tests/data/test_phantom.py",),
    ),
]


def main(words: list[str]) -> bool:
    """Try the mutations that the words choose; whether there are any and all were noticed."""
    chosen = [m for m in MUTATIONS if not words or any(w in " ".join(m[:3]) for w in words)]
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        noticed = sum(tried(mutation, Path(folder)) for mutation in chosen)
    print(f"{noticed} of {len(chosen)} noticed")
    return 0 < noticed == len(chosen)


def copy_project(to: Path) -> None:
    """Copy the files that git tracks, or would."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (PROJECT / name).exists():  # else deleted, and not committed yet
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, to / name)


def tried(mutation: Mutation, project: Path) -> bool:
    """Whether the tests notice a mutation of a copy of the project, which is then undone."""
    file = project / mutation.file
    text = file.read_text() if file.exists() else ""
    what = f"{mutation.file}: {mutation.old.strip()} -> {mutation.new.strip()}"
    if text.count(mutation.old) != 1:
        print(f"stale: occurs {text.count(mutation.old)} times   {what}", flush=True)
        return False
    file.write_text(text.replace(mutation.old, mutation.new))
    began = time.monotonic()
    tests = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests]
    # No bytecode: a change within a second that keeps a file's size would not be seen.
    own = {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(tests, cwd=project, env=os.environ | own, capture_output=True, text=True)
    file.write_text(text)
    # 0: all passed; 1: a test failed; 2: a file of tests could not be read.
    verdict = {0: "NOT NOTICED", 1: "noticed", 2: "noticed"}.get(done.returncode)
    verdict = verdict or f"ERROR: pytest ended with {done.returncode}"
    print(f"{verdict} in {time.monotonic() - began:.1f} s   {what}", flush=True)
    return verdict == "noticed"


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
