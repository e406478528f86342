"""The Swin SAGAN of the thesis, section 3.2: SAGAN with a Swin Transformer as encoder and decoder.

Residual blocks, skips, gates, the last fusion and the critic are SAGAN's; nothing is cut, and
there is no place code. Swin: Liu et al. 2021; patch expanding: Cao et al. 2022. timm is imported
where it is used: that takes seconds.
"""

import pandas as pd
import torch
from torch import Tensor, nn

from nblib.methods.layers import Placed
from nblib.methods.sagan import Decoder

WINDOW, DEPTH, HEAD = 8, 2, 32
"""Places along a window's side, blocks of a stage (the second has its windows shifted), channels of
a head. Where a map is no larger than a window, attention is global and nothing is shifted."""


def heads(channels: int) -> int:
    """Of an attention over so many channels."""
    return max(1, channels // HEAD)


class SwinEncoder(nn.Module):
    """(B, C, h, w) -> three maps at strides 2, 4, 8 with 2, 4, 8 x width channels.

    Patches of 2 x 2 pixels, then three stages. h and w: any multiples of 8, also others than the
    training's. Raises ValueError where a place code is asked for: it has none.
    """

    known_zeros = ("stages.norm.bias",)
    """The last norm's bias: a norm behind the next convolution subtracts what comes of it."""

    def __init__(
        self,
        channels: int,
        width: int,
        size: int,
        place: nn.Module | None = None,
        placed: type[nn.Module] = Placed,
        added: nn.Module | None = None,
    ):
        super().__init__()
        from timm.models.swin_transformer import SwinTransformer

        if place or added:
            raise ValueError("The Swin encoder takes no place code: give place=None, added=None.")
        self.stages = SwinTransformer(
            img_size=size,
            patch_size=2,
            in_chans=channels,
            num_classes=0,
            embed_dim=2 * width,
            depths=(DEPTH,) * 3,
            num_heads=tuple(heads(width * 2**i) for i in (1, 2, 3)),
            window_size=WINDOW,
            strict_img_size=False,
            drop_path_rate=0.0,
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.stages.forward_intermediates(x, norm=True, intermediates_only=True)


class SwinFuse(nn.Module):
    """A linear map to fewer channels, then Swin blocks: (B, cin, h, w) -> (B, cout, h, w).

    size: side of the maps it is trained on. Weights start as PyTorch's, the encoder's as timm's.
    """

    def __init__(self, cin: int, cout: int, size: int):
        super().__init__()
        from timm.models.swin_transformer import SwinTransformerStage

        self.linear = nn.Linear(cin, cout)
        self.blocks = SwinTransformerStage(
            cout,
            cout,
            (size, size),
            depth=DEPTH,
            downsample=False,
            num_heads=heads(cout),
            window_size=WINDOW,
            dynamic_mask=True,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.linear(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2).contiguous()


class PatchExpanding(nn.Module):
    """The inverse of Swin's patch merging: (B, cin, h, w) -> (B, cout, 2 h, 2 w).

    A linear map of each place to 4 cout channels, which become its 2 x 2 places, and a layer norm.
    """

    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.linear = nn.Conv2d(cin, 4 * cout, 1, bias=False)
        self.norm = nn.LayerNorm(cout)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.pixel_shuffle(self.linear(x), 2)
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


def windows(G: nn.Module) -> pd.DataFrame:
    """The Swin blocks of a generator, in order: map, window, shift, and whether it sees all."""
    from timm.models.swin_transformer import SwinTransformerBlock

    rows = {}
    for name, block in G.named_modules():
        if isinstance(block, SwinTransformerBlock):
            side, window, shift = (
                block.input_resolution[0],
                block.window_size[0],
                block.shift_size[0],
            )
            rows[name] = {
                "channels": block.dim,
                "heads": block.attn.num_heads,
                "map": f"{side} x {side}",
                "window": f"{window} x {window}",
                "shift": shift,
                "attention": "global" if window == side else "in windows",
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("block")


def swin_decoder(channels: int, width: int, size: int, gate: type[nn.Module]) -> Decoder:
    """SAGAN's decoder, fusing by Swin blocks and doubling by patch expanding."""

    def fuse(cin: int, cout: int) -> SwinFuse:
        return SwinFuse(cin, cout, size * width // cout)  # 8 x width channels at size / 8, ...

    return Decoder(channels, width, gate, fuse, PatchExpanding)
