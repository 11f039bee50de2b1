"""A clock and a network for tests."""

from __future__ import annotations

import random
from collections.abc import Callable

from torch import Tensor, nn


class FakeClock:
    """A clock that stands still until work is done; how long work takes can drift."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.drift: Callable[[float], float] = lambda now: 1.0
        self.jitter = 0.0
        self.outliers = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        """A case that takes this long, times drift, jitter and now and then an outlier."""

        def case() -> None:
            factor = self.drift(self.now) * self.random.gauss(1.0, self.jitter)
            if self.random.random() < self.outliers:
                factor *= 5
            self.now += seconds * factor

        return case


class TinyNet(nn.Module):
    """One residual block with all that a ResNet has: conv, norm, activation, addition, pool, fc."""

    def __init__(self, channels: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.act(x + self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.fc(self.pool(x).flatten(1))
