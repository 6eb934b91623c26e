"""Generate instruction data: annotated images in, checked conversations out."""

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
from vistune.datagen.sources import (
    SOURCES,
    Source,
    TableForm,
    described_source,
    read_coco,
    read_source,
    splits_of,
)

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
    "write_generated",
]
