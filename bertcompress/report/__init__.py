"""`Report`: rows of measurements to JSON, Markdown, HTML, figures and the terminal."""

from bertcompress.report.report import Report, markdown_table, plot, print_report, report_schema
from bertcompress.report.rows import (
    VERSION,
    Control,
    DeploymentRow,
    LayerShape,
    ReportData,
    SpeedUp,
    Stage,
    Verdict,
)

__all__ = [
    "VERSION",
    "Control",
    "DeploymentRow",
    "LayerShape",
    "Report",
    "ReportData",
    "SpeedUp",
    "Stage",
    "Verdict",
    "markdown_table",
    "plot",
    "print_report",
    "report_schema",
]
