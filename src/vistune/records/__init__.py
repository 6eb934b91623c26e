"""Read records from user files: their locations, images, conversations, and fields that vistune does not read."""

from vistune.records.conversations import (
    FORMS,
    MARKER,
    OTHER_MEDIA,
    Turn,
    Turns,
    image_names,
    marker_like,
    names_to_suggest,
    split_markers,
)
from vistune.records.errors import (
    Record,
    RecordError,
    UnreadField,
    count_unread,
    lines_of,
    location_of,
    printable,
    refuse_unread,
    shown,
    text,
    unread_fields,
)
from vistune.records.images import ImageFolders, folders_next_to
from vistune.records.pairs import RECORD_FIELDS, columns_read, is_pair
from vistune.records.reading import GENERATED_FILES, SUFFIXES, kind_of_file, open_file, read_records, read_values
from vistune.records.samples import (
    images_in_place,
    kind_of,
    read_sample,
    refuse_other_media,
    refuse_other_names,
)
from vistune.records.tables import TableFormat
from vistune.records.unpacked import DataFile, needs_unpacking, open_data, unpack, unpacked_in, write_image

__all__ = [
    "FORMS",
    "GENERATED_FILES",
    "MARKER",
    "OTHER_MEDIA",
    "RECORD_FIELDS",
    "SUFFIXES",
    "DataFile",
    "ImageFolders",
    "Record",
    "RecordError",
    "TableFormat",
    "Turn",
    "Turns",
    "UnreadField",
    "columns_read",
    "count_unread",
    "folders_next_to",
    "image_names",
    "images_in_place",
    "is_pair",
    "kind_of",
    "kind_of_file",
    "lines_of",
    "location_of",
    "marker_like",
    "names_to_suggest",
    "needs_unpacking",
    "open_data",
    "open_file",
    "printable",
    "read_records",
    "read_sample",
    "read_values",
    "refuse_other_media",
    "refuse_other_names",
    "refuse_unread",
    "shown",
    "split_markers",
    "text",
    "unpack",
    "unpacked_in",
    "unread_fields",
    "write_image",
]
