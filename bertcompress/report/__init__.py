"""`Report`: rows of measurements to JSON, Markdown, HTML, figures and the terminal."""

from bertcompress.report.judgement import SpeedUp, Use, Verdict
from bertcompress.report.report import (
    Report,
    markdown_table,
    markdown_tiles,
    plot,
    print_report,
    report_schema,
)
from bertcompress.report.rows import (
    VERSION,
    Control,
    DeploymentRow,
    LayerShape,
    Outcome,
    ReportData,
    Stage,
)

__all__ = [
    "VERSION",
    "Control",
    "DeploymentRow",
    "LayerShape",
    "Outcome",
    "Report",
    "ReportData",
    "SpeedUp",
    "Stage",
    "Use",
    "Verdict",
    "markdown_table",
    "markdown_tiles",
    "plot",
    "print_report",
    "report_schema",
]
