"""Checkpoints of SAGAN's authors, loaded into our generator: the only file of users that is opened
below the wall.
"""

from pathlib import Path

import torch
from torch import Tensor

from nblib.methods.sagan import Generator

AUTHORS_NAMES = {
    "layer1": "encoder.stem",
    "enc_layer1": "encoder.down1",
    "p_bn1": "encoder.place1",
    "enc_layer2": "encoder.down2",
    "p_bn2": "encoder.place2",
    "enc_layer3": "encoder.down3",
    "bn2": "bottleneck",
    "gate1": "decoder.gate1",
    "dec_bn1": "decoder.fuse1",
    "dec_layer1": "decoder.up1",
    "up_conv1": "decoder.widen1",
    "gate2": "decoder.gate2",
    "dec_bn2": "decoder.fuse2",
    "dec_layer2": "decoder.up2",
    "up_conv2": "decoder.widen2",
    "gate3": "decoder.gate3",
    "dec_bn3": "decoder.fuse3",
    "dec_layer3": "decoder.up3",
    "bn3": "decoder.fuse",
    "conv": "decoder.head",
}
"""Modules of the authors' generator, by their names there and here."""

RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def load_authors_checkpoint(G: Generator, file: Path) -> None:
    """Load a `state_dict` of the authors' generator (their `*-G.ckpt`) into `G`, strictly.

    Tensors are matched module by module, by order and shape, and every one has to be used. The
    running statistics of their norms are left out: they never score with them, nor do we. The
    file is read with `weights_only=True`: it can hold tensors, but run nothing.

    Raises ValueError, naming the module, where the file does not fit; `G` is then unchanged.
    """
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    modules: dict[str, list[Tensor]] = {name: [] for name in AUTHORS_NAMES}
    for key, tensor in theirs.items():
        name = key.split(".")[0]
        if name not in modules:
            raise ValueError(f"{file}: '{key}' belongs to no module of SAGAN's generator.")
        if not key.endswith(RUNNING_STATISTICS):
            modules[name].append(tensor)
    state = {}
    for name, tensors in modules.items():
        place = AUTHORS_NAMES[name]
        ours = G.get_submodule(place).state_dict(prefix=f"{place}.")
        shapes = [tuple(tensor.shape) for tensor in ours.values()]
        if shapes != [tuple(tensor.shape) for tensor in tensors]:
            raise ValueError(
                f"{file}: module '{name}' has tensors of the shapes "
                f"{[tuple(t.shape) for t in tensors]}, but this generator needs {shapes}. "
                "Build it with the width, grid and channels of the checkpoint."
            )
        state |= dict(zip(ours, tensors, strict=True))
    G.load_state_dict(state)
