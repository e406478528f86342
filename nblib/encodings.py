"""What a network is told about places.

A place part answers `place(h, w) -> (patches, channels, h, w)`: what is concatenated to the
feature maps of the patches of an image, in the order of `layers.cut`.
"""

import torch
from torch import Tensor, nn


class BinaryCode(nn.Module):
    """The place code of SAGAN: a patch's number in binary, constant over the patch.

    `patches` numbers 0, 1, ... in floor(log2(patches)) + 1 bits, most significant first: 000, 001,
    010, 011 for four patches. So the authors' code; the thesis' eq. 2.20 rounds up, which is the
    same for powers of two, and its example with two bits is a slip.
    """

    def __init__(self, patches: int):
        super().__init__()
        self.channels = patches.bit_length()
        bits = range(self.channels - 1, -1, -1)
        code = torch.tensor([[p >> bit & 1 for bit in bits] for p in range(patches)])
        self.register_buffer("code", code.float(), persistent=False)

    def forward(self, h: int, w: int) -> Tensor:
        return self.code[:, :, None, None].expand(-1, -1, h, w)
