"""Generate instruction data: annotated images in, checked conversations out."""

from vistune.datagen.caption_filter import Chosen, filter_captions
from vistune.datagen.generate import (
    TEACHERS,
    Generated,
    NothingWritten,
    by_rule,
    by_service,
    is_asked,
    most_frequent,
    teacher_record,
    write_generated,
)
from vistune.datagen.sources import (
    SOURCES,
    Source,
    TableForm,
    described_source,
    read_coco,
    read_source,
    splits_of,
)
from vistune.datagen.teachers.estimate import foresee
from vistune.datagen.teachers.requests import Order, Wishes, make_orders
from vistune.datagen.teachers.service import TEMPERATURE, Service

__all__ = [
    "SOURCES",
    "TEACHERS",
    "TEMPERATURE",
    "Chosen",
    "Generated",
    "NothingWritten",
    "Order",
    "Service",
    "Source",
    "TableForm",
    "Wishes",
    "by_rule",
    "by_service",
    "described_source",
    "filter_captions",
    "foresee",
    "is_asked",
    "make_orders",
    "most_frequent",
    "read_coco",
    "read_source",
    "splits_of",
    "teacher_record",
    "write_generated",
]
