"""Generate instruction data: annotated images in, checked conversations out."""

from vistune.datagen.caption_filter import FilteredCaptions, FilterOptions, filter_captions
from vistune.datagen.generate import (
    TEACHERS,
    GeneratedData,
    NothingWritten,
    describe_top_reject,
    generate_by_model,
    generate_by_rule,
    teacher_record,
)
from vistune.datagen.held_out import choose_held_out, separate_held_out
from vistune.datagen.sources import SOURCES, described_source, read_coco, read_source, splits_of
from vistune.datagen.sources.collector import AnnotatedSource
from vistune.datagen.sources.table_columns import TableForm
from vistune.datagen.teachers import GenerationConfig, Request, make_requests, needs_request
from vistune.datagen.teachers.options import TEMPERATURE, TeacherOptions, estimate
from vistune.datagen.writing import write_generated

__all__ = [
    "SOURCES",
    "TEACHERS",
    "TEMPERATURE",
    "AnnotatedSource",
    "FilterOptions",
    "FilteredCaptions",
    "GeneratedData",
    "GenerationConfig",
    "NothingWritten",
    "Request",
    "TableForm",
    "TeacherOptions",
    "choose_held_out",
    "describe_top_reject",
    "described_source",
    "estimate",
    "filter_captions",
    "generate_by_model",
    "generate_by_rule",
    "make_requests",
    "needs_request",
    "read_coco",
    "read_source",
    "separate_held_out",
    "splits_of",
    "teacher_record",
    "write_generated",
]
