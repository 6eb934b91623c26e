"""The built-in world: drawn images with exact captions, boxes and questions, and the tiny backbones."""

from vistune.scenes.draw import (
    COLORS,
    HELD_OUT,
    SHAPES,
    SIDE,
    SPLITS,
    DrawnFolder,
    DrawnScene,
    make_scene,
    render,
    scenes_of,
    write_world,
)

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
