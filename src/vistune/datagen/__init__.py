"""Instruction data: described pictures in, checked conversations out."""

from vistune.datagen.coco import read_coco, splits_of
from vistune.datagen.generate import TEACHERS, Generated, Wishes, generate, write_generated

__all__ = ["TEACHERS", "Generated", "Wishes", "generate", "read_coco", "splits_of", "write_generated"]
