"""Files -> Samples, Examples -> Batches: readers, plan, collate, loader, check."""

from vistune.data.background import Background, Interrupted, Stopping, never, result_of
from vistune.data.check import CheckReport, check
from vistune.data.choice import (
    Choice,
    Rows,
    all_rows,
    choose_rows,
    known_kinds,
    pictures_of,
    refuse_unknown_kinds,
)
from vistune.data.holdout import held_out, only, pictures_in, without
from vistune.data.index import Index, Watch, index, unwatched
from vistune.data.likeness import Likeness, compare_pictures
from vistune.data.loader import Loader, PixelCache
from vistune.data.packing import StagePlan, epoch_size, plan_epoch, plan_stage, steps_of
from vistune.data.readers import data_path, folders_of, open_source
from vistune.data.shards import listed
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
    "Watch",
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
    "unwatched",
    "without",
]
