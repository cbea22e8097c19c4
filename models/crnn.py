"""Small networks that tag sound clips: convolutions over time and frequency, then a GRU.

A clip is given as an image: rows are frames, the 32 columns are mel bands, and the channels are the log-mel
spectrogram and its first and second difference (benchmark/data/spectrogram.py). The convolutions halve the
frequencies three times and keep every frame, so the last stage's map is `[B, C, frames, 1]`: its positions
are the frames of the clip.

The design is that of Cakir et al., Convolutional Recurrent Neural Networks for Polyphonic Sound Event
Detection, TASLP 2017. The sizes come from no paper; they were chosen for this suite.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.init import he_fan_out
from models.layers import BatchNorm2d, NormReLU
from models.network import PostActivationNetwork, PreactBlock, global_pool, run_blocks

BANDS = 32
"""Mel bands, the columns of the input."""


class BandBlock(PreactBlock):
    """A 3x3 convolution and a batch norm. Columns are halved, rows are kept."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, (1, 2), 1, bias=False)
        self.bn = BatchNorm2d(outputs)

    def run(self, x: Tensor, relu: bool) -> Tensor:
        out: Tensor = self.bn(self.conv(x), None, relu)
        return out


class CRNN(PostActivationNetwork):
    """A stem, three convolutional stages, and a stage that is a bidirectional GRU, averaged over the frames.

    width: channels of the stem and the first stage, and units of the GRU in each direction. Later stages
        have twice as many channels.

    Images are `[B, 3, frames, 32]`, with any number of frames. Map and pre-activation of the last stage are
    both the output of the GRU, `[B, 2 * width, frames, 1]`; no ReLU follows it. torch.compile does not
    trace a GRU, so it does not make one graph of this network.
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

    def run_stage(self, index: int, x: Tensor, keep_preact: bool = False) -> tuple[Tensor, Tensor | None]:
        if index < 3:
            return run_blocks((self.stage1, self.stage2, self.stage3)[index], x, keep_preact)
        frames = self.rnn(x.permute(0, 2, 1, 3).flatten(2))[0]
        # PyTorch's result is ordered frame by frame. Ordered clip by clip, the map is in channels_last.
        out = frames.contiguous().transpose(1, 2).unsqueeze(3)
        return out, out if keep_preact else None

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(x_last_map)
        return embedding, self.fc(embedding)

    def linear_head(self) -> nn.Linear:
        return self.fc

    def feature_modules(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.stage1, self.stage2, self.stage3, self.rnn]
