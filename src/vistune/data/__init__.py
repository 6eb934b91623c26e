"""Files -> Samples, Examples -> Batches: readers, plan, collate, loader, check."""

from vistune.data.background import Background, Interrupted, Stopping, never, result_of
from vistune.data.check import CheckReport, check
from vistune.data.index import Index, index
from vistune.data.loader import Loader, PixelCache
from vistune.data.near_duplicates import Likeness, find_near_duplicates
from vistune.data.packing import StagePlan, epoch_size, plan_epoch, plan_stage, steps_of
from vistune.data.readers import data_path, folders_of, open_source
from vistune.data.selection import Choice, Rows, all_rows, choose_rows, images_of, known_kinds, refuse_unknown_kinds
from vistune.data.shards import listed
from vistune.data.split import held_out, images_in, only, without
from vistune.data.stream import UNREAD, Place, Stream, StreamLoader, read_window

__all__ = [
    "UNREAD",
    "Background",
    "CheckReport",
    "Choice",
    "Index",
    "Interrupted",
    "Likeness",
    "Loader",
    "PixelCache",
    "Place",
    "Rows",
    "StagePlan",
    "Stopping",
    "Stream",
    "StreamLoader",
    "all_rows",
    "check",
    "choose_rows",
    "data_path",
    "epoch_size",
    "find_near_duplicates",
    "folders_of",
    "held_out",
    "images_in",
    "images_of",
    "index",
    "known_kinds",
    "listed",
    "never",
    "only",
    "open_source",
    "plan_epoch",
    "plan_stage",
    "read_window",
    "refuse_unknown_kinds",
    "result_of",
    "steps_of",
    "without",
]
