"""Add a projector: an MLP in which each patch also sees the mean of its neighbours.

PYTHONPATH=examples vistune train quickstart data=data model.projector=add_a_projector:NEIGHBOURS --out run
A checkpoint stores this name, so the file must be importable wherever the model is loaded.
"""

import math

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from vistune.model.projectors import Projector


class Neighbours(nn.Module):
    """(tiles, side * side, vision width) -> (tiles, side * side, language width)"""

    def __init__(self, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision_width)
        self.own = nn.Linear(vision_width, language_width)
        self.around = nn.Linear(vision_width, language_width)
        self.out = nn.Linear(language_width, language_width)

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(features)
        side = math.isqrt(features.shape[1])
        grid = features.mT.reshape(len(features), -1, side, side)
        around = avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False).flatten(2).mT
        hidden = nn.functional.gelu(self.own(features) + self.around(around))
        return self.out(hidden)


# The class is called with both widths. Give `slots=lambda tokens: ...` if it changes the number of image tokens.
NEIGHBOURS = Projector(Neighbours)
