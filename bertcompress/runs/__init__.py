"""`run`: a recipe, stage by stage, into a run folder; resumable, and sparing what was done."""

from bertcompress.runs.running import Run, run

__all__ = ["Run", "run"]
