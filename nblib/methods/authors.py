"""Checkpoints of SAGAN's authors, loaded into our generator: the only file of users that is opened
below the wall.
"""

import zipfile
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

    A dictionary that holds one such `state_dict` among other things is taken for it, and the prefix
    'module.' of DataParallel is dropped. Numbers of half or double precision become single.

    Raises ValueError, naming the module, where the file does not fit, is missing or damaged, or
    holds a number that is not finite; `G` is then unchanged.
    """
    modules: dict[str, list[Tensor]] = {name: [] for name in AUTHORS_NAMES}
    for key, tensor in _tensors(file).items():
        name = key.split(".")[0]
        if name not in modules:
            raise ValueError(f"{file}: {key!r} belongs to no module of SAGAN's generator.")
        if not key.endswith(RUNNING_STATISTICS):
            modules[name].append(_checked(tensor, f"{file}: {key!r}"))
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


def _tensors(file: Path) -> dict[str, Tensor]:
    """What a file holds of a generator, by the authors' names."""
    try:
        if not file.is_file():
            raise FileNotFoundError  # torch would wait for a pipe
        found = torch.load(file, map_location="cpu", weights_only=True)
        # Torch writes a checksum of each tensor, and does not look at it.
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged:
                raise zipfile.BadZipFile(damaged)
    except Exception as error:  # what is no checkpoint makes torch raise nearly anything
        raise ValueError(
            f"{file} is missing, damaged, or more than tensors, which is all that is read "
            f"(weights_only): {type(error).__name__}."
        ) from None
    if not _has_names(found):
        raise ValueError(f"{file} is no state_dict of a generator: it is no dictionary by name.")
    inside = [key for key, value in found.items() if _has_names(value) and _is_theirs(value)]
    if len(inside) > 1:
        names = ", ".join(map(repr, inside))
        raise ValueError(f"{file} holds several generators: {names}. Save one of them alone.")
    state = found[inside[0]] if inside else found
    if twice := [key for key in state if f"module.{key}" in state]:
        raise ValueError(f"{file} holds {twice[0]!r} twice: alone, and behind 'module.'.")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _has_names(found) -> bool:
    return isinstance(found, dict) and all(isinstance(key, str) for key in found)


def _is_theirs(state: dict) -> bool:
    """Whether a name in it is one of the authors' modules."""
    return any(key.removeprefix("module.").split(".")[0] in AUTHORS_NAMES for key in state)


def _checked(tensor, name: str) -> Tensor:
    """The tensor, if it is one of finite real numbers."""
    is_one = isinstance(tensor, Tensor) and tensor.layout == torch.strided
    # One on the device 'meta' has a shape and no numbers.
    if not is_one or tensor.is_meta or not tensor.is_floating_point():
        raise ValueError(f"{name} is no tensor of real numbers.")
    if not tensor.float().isfinite().all():
        raise ValueError(f"{name} holds numbers that are not finite.")
    return tensor
