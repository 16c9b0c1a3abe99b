"""Whether a teacher's answers are kept for a stage: logits always, hidden states where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bertcompress.engines.distillation.state_cache import hidden_cache_bytes, states_for
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.method import Teacher
from bertcompress.support.display import shown

__all__ = ["cached_where_it_fits"]


def cached_where_it_fits(
    teacher: Teacher, needs: frozenset[str], workdir: Path, limit_mb: float
) -> Teacher:
    """Return a stage's teacher with its answers kept, where nothing would still be asked live.

    `needs`: what it is asked for besides logits; `limit_mb`: the most that hidden states may take,
    in 10^6 bytes. What they take is said before any is computed.
    """
    if not isinstance(teacher, LiveTeacher) or teacher.data is None:
        return teacher
    if not needs:
        return CachedTeacher(teacher, workdir)
    states = states_for(needs, teacher.model)
    if states is None:
        return teacher
    size_mb = _bytes_of(teacher, states) / 1e6
    display = shown.get()
    if display is not None:
        display.line(_words(len(states), size_mb, limit_mb))
    if size_mb > limit_mb:
        return teacher
    return CachedTeacher(teacher, workdir, hidden_limit_mb=limit_mb, states=states)


def _bytes_of(teacher: LiveTeacher, states: Sequence[int]) -> int:
    """Return what hidden states take of all rows that a stage may ask for."""
    assert teacher.data is not None
    assert teacher.tokenizer is not None
    splits = (*teacher.data.learned, "selection")
    rows = [teacher.data.encode(teacher.tokenizer, split) for split in splits]
    lengths = np.concatenate([np.asarray(split["length"][:]) for split in rows])
    return hidden_cache_bytes(teacher.model, lengths, states)


def _words(states: int, size_mb: float, limit_mb: float) -> str:
    what = f"the teacher's hidden states, {states} a token, take {size_mb:,.1f} MB"
    if size_mb <= limit_mb:
        return f"{what}: computed once and kept (cache_hidden_mb {limit_mb:g})"
    return f"{what}: computed in each step (cache_hidden_mb {limit_mb:g} is less)"
