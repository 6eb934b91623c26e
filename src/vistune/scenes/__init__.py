"""The built-in world: drawn pictures with exact captions, boxes and questions, and the tiny backbones.

seed -> DrawnScene -> pixels, boxes, captions, questions -> a COCO folder
"""

from vistune.scenes.draw import render
from vistune.scenes.folder import SPLITS, DrawnFolder, scenes_of, write_world
from vistune.scenes.world import COLORS, HELD_OUT, SHAPES, SIDE, DrawnScene, make_scene

__all__ = [
    "COLORS",
    "HELD_OUT",
    "SHAPES",
    "SIDE",
    "SPLITS",
    "DrawnFolder",
    "DrawnScene",
    "make_scene",
    "render",
    "scenes_of",
    "write_world",
]
