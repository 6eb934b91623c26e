"""Files -> Samples, Examples -> Batches: readers, plan, collate, loader, check."""

from vistune.data.check import CheckReport, check, prove
from vistune.data.collate import collate
from vistune.data.loader import Loader, PixelCache
from vistune.data.packing import StagePlan, plan_epoch, plan_stage
from vistune.data.readers import ReadResult, data_file, read_samples, refuse_unknown_kinds

__all__ = [
    "CheckReport",
    "Loader",
    "PixelCache",
    "ReadResult",
    "StagePlan",
    "check",
    "collate",
    "data_file",
    "plan_epoch",
    "plan_stage",
    "prove",
    "read_samples",
    "refuse_unknown_kinds",
]
