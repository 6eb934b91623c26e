"""Files -> Samples, Examples -> Batches: readers, plan, collate, loader, check."""

from vistune.data.check import CheckReport, check
from vistune.data.choice import Choice, choose_rows, known_kinds
from vistune.data.index import Index, Rows, Watch, index
from vistune.data.likeness import Likeness, compare_pictures
from vistune.data.loader import Loader, PixelCache
from vistune.data.packing import StagePlan, plan_epoch, plan_stage
from vistune.data.readers import ReadResult, data_file, pictures_of, read_samples, refuse_unknown_kinds

__all__ = [
    "CheckReport",
    "Choice",
    "Index",
    "Likeness",
    "Loader",
    "PixelCache",
    "ReadResult",
    "Rows",
    "StagePlan",
    "Watch",
    "check",
    "choose_rows",
    "compare_pictures",
    "data_file",
    "index",
    "known_kinds",
    "pictures_of",
    "plan_epoch",
    "plan_stage",
    "read_samples",
    "refuse_unknown_kinds",
]
