"""Files -> Samples, Examples -> Batches: readers, plan, collate, loader, check."""

from vistune.data.check import CheckReport, check, prove
from vistune.data.likeness import Likeness, compare_pictures
from vistune.data.loader import Loader, PixelCache
from vistune.data.packing import StagePlan, plan_epoch, plan_stage
from vistune.data.readers import ReadResult, data_file, pictures_of, read_samples, refuse_unknown_kinds

__all__ = [
    "CheckReport",
    "Likeness",
    "Loader",
    "PixelCache",
    "ReadResult",
    "StagePlan",
    "check",
    "compare_pictures",
    "data_file",
    "pictures_of",
    "plan_epoch",
    "plan_stage",
    "prove",
    "read_samples",
    "refuse_unknown_kinds",
]
