"""Images in memory, and the digits that scikit-learn brings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

# The digits have no split of their own; one for all seeds, so that runs stay comparable.
DIGITS_SPLIT_SEED = 0
DIGITS = 1797  # how many there are


@dataclass(frozen=True)
class Images:
    """Images in memory.

    Attributes:
        images: [N, C, H, W] uint8.
        labels: [N] int64, indices into ``classes``.
        classes: names, in the order of the labels.
        digest: of the names, sizes and labels of all images that these were chosen from.
        contents: of what is in them; see :attr:`cpt_nas.data.decode.Findings.contents`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    digest: str = ""
    contents: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: torch.Tensor) -> Images:
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def load_digits(input_size: tuple[int, int, int]) -> tuple[Images, Images]:
    """scikit-learn's 1,797 handwritten 8x8 digits, resized; 80 % to train, 20 % to test.

    The split is stratified and the same for every seed.
    """
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    bunch = sklearn_digits()
    channels, height, width = input_size
    pixels = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)  # 0..16 as shipped
    resized = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    images = resized.round().clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1)
    labels = torch.from_numpy(bunch.target).long()
    everything = Images(images.contiguous(), labels, tuple(str(d) for d in range(10)))
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=0.2,
        stratify=bunch.target,
        random_state=DIGITS_SPLIT_SEED,
    )
    return everything.subset(torch.from_numpy(train)), everything.subset(torch.from_numpy(test))
