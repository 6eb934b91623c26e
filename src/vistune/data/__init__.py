"""Files -> Samples, Examples -> Batches: readers, plan, collate, loader, check."""

from vistune.data.background import Background, Interrupted, Stopping, never, result_of
from vistune.data.check import CheckReport, check
from vistune.data.index import Index, index
from vistune.data.loader import Loader, PixelCache
from vistune.data.near_duplicates import Likeness, compare_pictures
from vistune.data.packing import StagePlan, epoch_size, plan_epoch, plan_stage, steps_of
from vistune.data.readers import data_path, folders_of, open_source
from vistune.data.selection import Choice, Rows, all_rows, choose_rows, known_kinds, pictures_of, refuse_unknown_kinds
from vistune.data.shards import listed
from vistune.data.split import held_out, only, pictures_in, without
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
    "compare_pictures",
    "data_path",
    "epoch_size",
    "folders_of",
    "held_out",
    "index",
    "known_kinds",
    "listed",
    "never",
    "only",
    "open_source",
    "pictures_in",
    "pictures_of",
    "plan_epoch",
    "plan_stage",
    "read_window",
    "refuse_unknown_kinds",
    "result_of",
    "steps_of",
    "without",
]
