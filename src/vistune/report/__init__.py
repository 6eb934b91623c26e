"""Pages and pictures that anyone can open: what a run learnt, what data holds, what a recipe builds."""

from vistune.report.comparison import write_comparison
from vistune.report.diagrams import draw_diagrams
from vistune.report.model_diagram import ModelFacts
from vistune.report.page import write_data_report
from vistune.report.run_page import Gathered, write_run_report
from vistune.report.runs_page import write_runs_report
from vistune.report.stage_diagram import StageFacts

__all__ = [
    "Gathered",
    "ModelFacts",
    "StageFacts",
    "draw_diagrams",
    "write_comparison",
    "write_data_report",
    "write_run_report",
    "write_runs_report",
]
