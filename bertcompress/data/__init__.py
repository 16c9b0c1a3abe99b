"""A `Task` to raw rows with a `row_id`, and to encoded splits for a tokenizer."""

from bertcompress.data.encoding import collator, numpy_batches
from bertcompress.data.rows import align_labels
from bertcompress.data.task_data import TaskData, calibration_batches, load_data

__all__ = [
    "TaskData",
    "align_labels",
    "calibration_batches",
    "collator",
    "load_data",
    "numpy_batches",
]
