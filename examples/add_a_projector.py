"""A projector of your own: two layers behind a norm, each patch told its neighbours' mean.

PYTHONPATH=examples vistune train quickstart data=data model.projector=add_a_projector:NEIGHBOURS --out run
The checkpoint keeps the name: whoever loads the model needs this file on the path too.
"""

import math

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from vistune.model.projectors import Projector


class Neighbours(nn.Module):
    """(tiles, side * side, vision width) -> (tiles, side * side, language width)"""

    def __init__(self, vision: int, language: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision)
        self.own, self.around = nn.Linear(vision, language), nn.Linear(vision, language)
        self.out = nn.Linear(language, language)

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(features)
        side = math.isqrt(features.shape[1])
        grid = features.mT.reshape(len(features), -1, side, side)
        around = avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False).flatten(2).mT
        hidden = nn.functional.gelu(self.own(features) + self.around(around))
        return self.out(hidden)


# What is built from the two widths; `slots=lambda tokens: …` too, where it makes fewer slots than there are patches.
NEIGHBOURS = Projector(Neighbours)
