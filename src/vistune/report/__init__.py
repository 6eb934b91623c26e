"""Reports as single HTML files that open offline, and diagrams of recipes."""

from vistune.report.comparison_pages import write_comparison, write_runs_report
from vistune.report.data_page import write_check_report, write_data_report
from vistune.report.diagrams import draw_diagrams
from vistune.report.run_page import RunDetails, write_run_report

__all__ = [
    "RunDetails",
    "draw_diagrams",
    "write_check_report",
    "write_comparison",
    "write_data_report",
    "write_run_report",
    "write_runs_report",
]
