"""Files -> Samples, Examples -> Batches: readers, plan, collate, loader, check."""

from vistune.data.check import CheckReport, check
from vistune.data.collate import collate
from vistune.data.loader import Loader
from vistune.data.packing import StagePlan, plan_stage
from vistune.data.readers import ReadResult, data_file, read_samples

__all__ = [
    "CheckReport",
    "Loader",
    "ReadResult",
    "StagePlan",
    "check",
    "collate",
    "data_file",
    "plan_stage",
    "read_samples",
]
