"""A recipe, stage by stage, into a run folder; resumable, and sparing what was done."""
