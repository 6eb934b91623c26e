"""Pages that anyone can open: what a run learnt and what generated data holds, each in one HTML file."""

from vistune.report.page import write_data_report, write_run_report

__all__ = ["write_data_report", "write_run_report"]
