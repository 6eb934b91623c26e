"""Samples -> Batches: index, mixture, split, packing, loader, shards; checks before training."""

from vistune.data.check import CheckReport, check
from vistune.data.index import Index, folders_of, index, open_source
from vistune.data.loader import (
    Background,
    Interrupted,
    Loader,
    PixelCache,
    Prefetch,
    ShardCursor,
    ShouldStop,
    never_stop,
    wait_for,
)
from vistune.data.near_duplicates import find_near_duplicates
from vistune.data.packing import StagePlan, epoch_size, plan_epoch, plan_stage, steps_of
from vistune.data.samples import SampleSequence, all_samples, image_files_of
from vistune.data.selection import SelectionRules, select_records
from vistune.data.shards import ShardStream
from vistune.data.stage_records import rules_for
from vistune.data.stream import UNREAD, ShardLoader, read_window

__all__ = [
    "UNREAD",
    "Background",
    "CheckReport",
    "Index",
    "Interrupted",
    "Loader",
    "PixelCache",
    "Prefetch",
    "SampleSequence",
    "SelectionRules",
    "ShardCursor",
    "ShardLoader",
    "ShardStream",
    "ShouldStop",
    "StagePlan",
    "all_samples",
    "check",
    "epoch_size",
    "find_near_duplicates",
    "folders_of",
    "image_files_of",
    "index",
    "never_stop",
    "open_source",
    "plan_epoch",
    "plan_stage",
    "read_window",
    "rules_for",
    "select_records",
    "steps_of",
    "wait_for",
]
