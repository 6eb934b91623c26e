"""Instruction data: described pictures in, checked conversations out."""

from vistune.datagen.coco import read_coco, splits_of
from vistune.datagen.concepts import Chosen, filter_captions
from vistune.datagen.estimate import foresee
from vistune.datagen.generate import (
    TEACHERS,
    Generated,
    NothingWritten,
    by_rule,
    by_service,
    is_asked,
    most_frequent,
    write_generated,
)
from vistune.datagen.orders import Order, Wishes, make_orders
from vistune.datagen.service import TEMPERATURE, Service
from vistune.datagen.tables import SUFFIXES, TableForm, read_pictures, read_table

__all__ = [
    "SUFFIXES",
    "TEACHERS",
    "TEMPERATURE",
    "Chosen",
    "Generated",
    "NothingWritten",
    "Order",
    "Service",
    "TableForm",
    "Wishes",
    "by_rule",
    "by_service",
    "filter_captions",
    "foresee",
    "is_asked",
    "make_orders",
    "most_frequent",
    "read_coco",
    "read_pictures",
    "read_table",
    "splits_of",
    "write_generated",
]
