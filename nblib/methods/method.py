"""What a method is: the contract between methods, the loop, and everything that shows results."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim import Optimizer

from nblib.data.batches import Batch, to_float


class Detection(NamedTuple):
    """What a method says of a batch of images.

    scores: (B,) each, larger = more abnormal; the first is the method's own.
    map: (B, H, W), >= 0, larger = more abnormal, or None.
    restored: (B, C, H, W) in [-1, 1] (a linear projection may step over), what the method thinks a
    healthy image is, or None.
    """

    scores: dict[str, Tensor]
    map: Tensor | None = None
    restored: Tensor | None = None

    @property
    def score(self) -> Tensor:
        """The method's own score (B,)."""
        return next(iter(self.scores.values()))


def residual(x: Tensor, restored: Tensor) -> Detection:
    """What a method that restores images says of x: the map |x - x'| / 2, its mean as score.

    Beside it, as a second score, the map's maximum.
    """
    map = (x - restored).abs().mean(1) / 2
    scores = {"residual": map.mean((1, 2)), "map maximum": map.amax((1, 2))}
    return Detection(scores, map, restored)


class Method(nn.Module):
    """A method of anomaly detection. Its constructor's arguments are its configuration.

    A method with a closed form overrides `prepare`; one that trains overrides `optimizers` and
    `updates` and has the attributes steps, batch_size and decay (see `loop.fit`).
    """

    needs: tuple[str, ...] = ("normal",)
    """Which images it learns from, of: normal, unlabeled, pseudo."""

    steps: int = 0
    """How many steps it trains; critic steps where there is a critic."""

    at_budget: dict[str, dict] = {}
    """Own arguments by budget, beside those of its family (see `budgets.BUDGETS`)."""

    known_zeros: tuple[str, ...] = ()
    """Parts of the names of parameters whose gradient is zero by construction."""

    image_size: int | None = None
    """The size of images it needs, where that is not the size of the set (see `runs.run`)."""

    optimises: bool = False
    """Whether `detect` optimises for each image, in `search_steps` steps that are all alike: too
    slow for AUCp at every checkpoint."""

    encode: Callable[[Tensor], Tensor] | None = None
    """A frozen encoding of images: (B, C, H, W) in [-1, 1] -> floats (B, c, h, w).

    It depends on the image alone, not on what is learnt. Where a method has one, each image of a
    training is encoded once, before step 0, and all below see encodings in place of images."""

    def prepare(
        self, normal: Tensor, unlabeled: Tensor, patients: np.ndarray | None = None
    ) -> None:
        """The closed-form part, once before step 0, from floats (n, C, H, W) in [-1, 1].

        patients: (n,), whose the known normals are, for folds that share no patient; by default
        each is another's.
        """

    def optimizers(self) -> dict[str, Optimizer]:
        """Named optimisers; {} = no training. Each parameter that requires a gradient is in one."""
        return {}

    def updates(self, batch: Batch, step: int) -> Iterator[tuple[str | None, dict[str, Tensor]]]:
        """Yield (optimiser, {term: scalar}) for each update of this step, an optimiser once.

        `yield` means "update now": the sum of the terms is minimised over the parameters of that
        optimiser before the next line runs, which sees the updated network; the same terms are
        logged. With None for an optimiser nothing is updated: the numbers are only logged.
        Never yield inside a `with`: the loop would run in that mode.
        """
        return iter(())

    def after_step(self, step: int) -> None:
        """What follows the updates of a step, such as moving averages of weights."""

    def enough(self, held_out: Tensor) -> bool:
        """Whether to stop early, judged on held-out known normals (n, C, H, W).

        Asked at every checkpoint, in evaluation mode under `torch.no_grad`.
        """
        return False

    def detect(self, x: Tensor) -> Detection:
        """Scores, map and restored image of x (B, C, H, W) in [-1, 1].

        A map of an encoding may be smaller: `detect_all` scales it to the image. A function of the
        image and the weights alone: not of the other images, nor of chance. Called in evaluation
        mode under `torch.no_grad`.
        """
        raise AttributeError(f"{type(self).__name__} does not say how it detects.")

    def keep(self, **fitted: Tensor) -> None:
        """Store what `prepare` found, as buffers, so that a checkpoint holds it."""
        for name, value in fitted.items():
            self.register_buffer(name, value)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """`load_state_dict`, which also takes the buffers that `keep` has stored."""
        own = self.state_dict().keys()
        self.keep(**{name: value for name, value in state.items() if name not in own})
        self.load_state_dict(state)


def detect_all(method: Method, images: np.ndarray, batch_size: int = 64) -> Detection:
    """`method.detect` over images (n, C, H, W), batch by batch, as NumPy arrays.

    images: uint8, or what `encode_all` made of them; maps have their height and width.

    Runs in evaluation mode, which is set back afterwards, and under `no_grad`: a method may need
    gradients of its own while it scores, which `inference_mode` would forbid.
    """
    tensors = [*method.parameters(), *method.buffers()]
    device = tensors[0].device if tensors else "cpu"
    mode = method.training
    method.eval()
    try:
        with torch.no_grad():
            found = [
                method.detect(as_seen(method, images[i : i + batch_size], device))
                for i in range(0, len(images), batch_size)
            ]
    finally:
        method.train(mode)

    def joined(tensors: list[Tensor | None]) -> np.ndarray | None:
        return None if tensors[0] is None else torch.cat(tensors).float().cpu().numpy()

    def as_large(map: Tensor | None) -> Tensor | None:
        if map is None or map.shape[-2:] == images.shape[-2:]:
            return map
        return interpolate(map[:, None], images.shape[-2:], mode="bilinear").squeeze(1)

    scores = {name: joined([d.scores[name] for d in found]) for name in found[0].scores}
    maps = joined([as_large(d.map) for d in found])
    return Detection(scores, maps, joined([d.restored for d in found]))


def as_seen(method: Method, images: np.ndarray, device: str | torch.device) -> Tensor:
    """Some images as floats on a device, encoded where the method encodes and they are not."""
    x = to_float(torch.from_numpy(images).to(device))
    return encoding(method, x) if images.dtype == np.uint8 else x


def encoding(method: Method, x: Tensor) -> Tensor:
    """What a method sees of images (B, C, H, W) in [-1, 1]: its encoding of them, if it has one."""
    return method.encode(x) if method.encode else x
