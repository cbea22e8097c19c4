"""Small convolutional-recurrent taggers of sound clips: convolutions over time and frequency, then a GRU over the frames.

A clip comes as an image whose rows are frames, whose 32 columns are mel bands and whose channels are the log-mel spectrogram and its first
and second difference (benchmark/data/spectrogram.py). The convolutions halve the frequencies three times and keep every frame, so that the
last stage's map is `[B, C, frames, 1]`: its positions are the frames of a clip.

The form is the one that audio tagging took over from speech (Cakir et al., Convolutional Recurrent Neural Networks for Polyphonic Sound Event
Detection, TASLP 2017); the sizes are this suite's own, of no paper.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.init import he_fan_out
from models.layers import BatchNorm2d, NormReLU
from models.network import PostActivationNetwork, PreactBlock, global_pool, run_blocks

BANDS = 32
"""Columns of the input."""


class BandBlock(PreactBlock):
    """A 3x3 convolution and batch norm that halve the columns and keep the rows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, (1, 2), 1, bias=False)
        self.bn = BatchNorm2d(outputs)

    def run(self, x: Tensor, relu: bool) -> Tensor:
        out: Tensor = self.bn(self.conv(x), None, relu)
        return out


class CRNN(PostActivationNetwork):
    """A stem, three stages of convolutions and one of a bidirectional GRU, whose outputs are averaged over the frames.

    width: channels of the stem and the first stage, and the GRU's units in each direction; later stages have twice as many channels.
    Images are `[B, 3, frames, 32]`: any number of frames, 32 bands. The recurrent stage's map and pre-activation are the GRU's output itself,
    `[B, 2 * width, frames, 1]`: nothing rectifies it. torch.compile leaves a GRU alone, so this network is not one graph.
    """

    num_stages = 4

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = NormReLU(width)
        self.stage1 = nn.Sequential(BandBlock(width, width))
        self.stage2 = nn.Sequential(BandBlock(width, 2 * width))
        self.stage3 = nn.Sequential(BandBlock(2 * width, 2 * width))
        self.rnn = nn.GRU(2 * width * BANDS // 8, width, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * width, num_classes)
        he_fan_out(self)

    def run_stem(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x))
        return out

    def run_stage(self, index: int, x: Tensor, keep: bool = False) -> tuple[Tensor, Tensor | None]:
        if index < 3:
            return run_blocks((self.stage1, self.stage2, self.stage3)[index], x, keep)
        frames = self.rnn(x.permute(0, 2, 1, 3).flatten(2))[0]
        # PyTorch hands out frames of all clips in turn; clip by clip, the map is in channels_last like those before it
        out = frames.contiguous().transpose(1, 2).unsqueeze(3)
        return out, out if keep else None

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(x_last_map)
        return embedding, self.fc(embedding)

    def linear_head(self) -> nn.Linear:
        return self.fc

    def feature_modules(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.stage1, self.stage2, self.stage3, self.rnn]
