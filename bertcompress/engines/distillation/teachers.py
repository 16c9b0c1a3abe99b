"""Teachers: live (a model that answers now) and cached (answers computed once and kept).

Both answer by `row_id` with their own tokenizer, so that student and teacher may differ in
vocabulary. A live teacher costs one forward pass per batch, about a third of a training step;
cached logits cost B x K floats in memory; cached hidden states cost what `hidden_cache_bytes` says,
of which relations and attention scores need those of their layers alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.engines.distillation.relations import projections
from bertcompress.engines.distillation.state_cache import (
    StateCache,
    hidden_cache_bytes,
    padded,
    partial_path,
    projected_layers,
    states_for,
)
from bertcompress.engines.distillation.stored_rows import StoredRows
from bertcompress.errors import DataError, ModelError
from bertcompress.heads.features import numbers_of
from bertcompress.heads.outputs import outputs_of
from bertcompress.method import Projections, TeacherOutputs
from bertcompress.models.tokenizers import position_limit
from bertcompress.training import forward

__all__ = [
    "CachedTeacher",
    "LiveTeacher",
    "check_same_features",
]


def check_same_features(teacher: LiveTeacher, student: PreTrainedTokenizerBase) -> None:
    """Raise ModelError where the teacher's tokenizer makes other features of some row.

    A window of the student would be taught by the answer to other words. Does nothing for a teacher
    without data, which answers for the student's own features.
    """
    if teacher.data is None or teacher.tokenizer is None:
        return
    for split in (*teacher.data.learned, "selection"):
        theirs, ours = (
            teacher.data.encoded(tokenizer, split) for tokenizer in (teacher.tokenizer, student)
        )
        if not np.array_equal(theirs.row_of_feature, ours.row_of_feature):
            raise ModelError(
                f"teacher: its tokenizer makes {len(theirs.row_of_feature):,} features of the "
                f"{ours.rows:,} rows of '{split}', the student's {len(ours.row_of_feature):,}, so "
                "their answers are not to the same words; take a teacher with the same tokenizer, "
                "or a larger max_length"
            )


class LiveTeacher:
    """A model that answers with a forward pass, in eval mode and without gradients.

    Its parameters stay as trainable as they were: a copy of the teacher may be the next student.
    Without `tokenizer` and `data` it can only answer for batches that it was told to `remember`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        data: TaskData | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.model = model.eval()
        if device is not None:
            self.model.to(device)
        self.tokenizer = tokenizer
        self.data = data
        self.seconds = 0.0
        """Spent on answering, all questions together."""
        self._remembered: Mapping[str, Tensor] | None = None

    def reading(self, data: TaskData) -> LiveTeacher:
        """Return the same model as a teacher of other rows, whose seconds are counted anew."""
        return LiveTeacher(self.model, self.tokenizer, data)

    def remember(self, batch: Mapping[str, Tensor]) -> None:
        """Use this batch, of the same tokenizer, for the next question if it is about its rows."""
        self._remembered = batch

    def __call__(
        self,
        row_ids: Tensor,
        needs: frozenset[str] = frozenset(),
        parts: Tensor | None = None,
    ) -> TeacherOutputs:
        """Answer for features of rows. Raises DataError where it lacks the texts.

        Shape: row_ids and parts (B,).
        """
        batch, self._remembered = self._remembered, None
        if batch is None or batch["row_id"] is not row_ids:
            batch = self._encode(row_ids, parts)
        return self.answer(batch, needs)

    def answer(
        self, batch: Mapping[str, Tensor], needs: frozenset[str] = frozenset()
    ) -> TeacherOutputs:
        """Answer for a batch of the teacher's own tokenizer. Shape: values (B, T).

        In the precision of the training: in bf16 a live answer is one that a cached one, in fp32,
        is rounded to, at a quarter of the time where a processor computes in bf16.
        Raises ModelError for texts that are longer than the model can read.
        """
        self._check_length(batch)
        start = time.perf_counter()
        if "attentions" in needs and hasattr(self.model, "set_attn_implementation"):
            self.model.set_attn_implementation("eager")  # type: ignore[operator]
        if self.model.training:
            self.model.eval()
        device = next(self.model.parameters()).device
        # Not inference_mode: its tensors may not take part in the student's backward pass.
        batch = {k: v.to(device) for k, v in batch.items()}
        layers = projected_layers(needs)
        asked = needs & {"hidden_states", "attentions"} | ({"hidden_states"} if layers else set())
        with torch.no_grad():
            outputs = forward(self.model, batch, frozenset(asked))
            inside = projections(self.model, layers, outputs["hidden_states"]) if layers else {}
        answers = outputs_of(outputs).float()
        if self.data is not None:
            head = self.data.task.head.of_model(getattr(self.model, "config", None))
            answers = head.taught(answers, batch)
        self.seconds += time.perf_counter() - start
        return TeacherOutputs(
            answers,
            tuple(h.float() for h in outputs["hidden_states"]) if "hidden_states" in needs else (),
            tuple(a.float() for a in outputs["attentions"]) if "attentions" in needs else (),
            inside,
        )

    def projected(
        self, layers: Sequence[int], states: Mapping[int, Tensor]
    ) -> dict[int, Projections]:
        """Return queries, keys and values of some layers, of hidden states by their numbers.

        Shape: each (B, T, H) -> three of (B, T, W).
        """
        weight = next(self.model.parameters())
        with torch.no_grad():
            return projections(self.model, layers, {n: h.to(weight) for n, h in states.items()})

    def _check_length(self, batch: Mapping[str, Tensor]) -> None:
        config, tokens = getattr(self.model, "config", None), batch.get("input_ids")
        if config is None or tokens is None or tokens.shape[-1] <= position_limit(config):
            return
        raise ModelError(
            f"teacher: reads at most {position_limit(config)} tokens, and a text of the batch has "
            f"{tokens.shape[-1]}; cut the task's texts there (max_length)"
        )

    def _encode(self, row_ids: Tensor, parts: Tensor | None) -> Mapping[str, Tensor]:
        if self.data is None or self.tokenizer is None:
            raise DataError(
                "live teacher: asked by row without data; give it `tokenizer` and `data`, or use "
                "it with a student of the same tokenizer"
            )
        which = None if parts is None else parts.cpu().numpy()
        features = self.data.rows(row_ids.cpu().numpy(), self.tokenizer, which)
        return self.data.collator(self.tokenizer)(features)


class CachedTeacher:
    """A live teacher whose logits for the training and selection rows are computed once.

    Those for transfer text, where the data have any, are too.

    They lie in `workdir/teacher-logits.safetensors` and are read again for the same teacher and
    data. Hidden states are kept too, in half precision and memory-mapped, where they take at most
    `hidden_limit_mb` (10^6 bytes); else they are computed live. `states`: which of them, None: all.
    The input of a layer answers for its relations and attention scores.
    """

    def __init__(
        self,
        live: LiveTeacher,
        workdir: Path,
        *,
        splits: Sequence[str] | None = None,
        hidden_limit_mb: float = 0.0,
        batch_size: int = 32,
        states: Sequence[int] | None = None,
    ) -> None:
        if live.data is None or live.tokenizer is None:
            raise DataError("cached teacher: the live teacher needs `tokenizer` and `data`")
        self.live = live
        self.tokenizer = live.tokenizer
        # Rows without labels go last: no batch holds them beside others.
        more = ("transfer",) if live.data.transfer is not None and splits is None else ()
        names = (*(splits or ("train", "selection")), *more)
        self._splits = [live.data.encode(live.tokenizer, split) for split in names]
        self._alike = sum(len(split) for split, name in zip(self._splits, names, strict=True)
                          if name not in more)  # fmt: skip
        lengths = np.concatenate([numbers_of(split, "length") for split in self._splits])
        ids = np.concatenate([numbers_of(split, "row_id") for split in self._splits])
        parts = np.concatenate([_parts_of(split) for split in self._splits])
        self._parts = int(parts.max(initial=0)) + 1
        ids = ids * self._parts + parts
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]
        self._lengths = lengths
        self._left = live.tokenizer.padding_side == "left"
        wanted = hidden_cache_bytes(live.model, lengths, states)
        self._cache: StateCache | None = None
        if 0 < wanted <= hidden_limit_mb * 1e6:
            every = states_for(frozenset({"hidden_states"}), live.model)
            kept = every if states is None else tuple(states)
            assert kept is not None
            named = "" if kept == every else "-" + "-".join(map(str, kept))
            path = Path(workdir) / f"teacher-hidden{named}.npy"
            self._cache = StateCache(path, kept, lengths, self._left)
        self._logits = self._read_or_compute(Path(workdir), batch_size)

    def remember(self, batch: Mapping[str, Tensor]) -> None:
        """Pass the batch on to the live teacher, for hidden states that are not cached."""
        self.live.remember(batch)

    def __call__(
        self,
        row_ids: Tensor,
        needs: frozenset[str] = frozenset(),
        parts: Tensor | None = None,
    ) -> TeacherOutputs:
        """Answer for features of rows. Raises DataError for those that are not cached.

        Shape: row_ids and parts (B,).
        """
        if needs and not self._keeps(needs):
            return self.live(row_ids, needs, parts)
        which = np.zeros(len(row_ids), np.int64) if parts is None else parts.cpu().numpy()
        places = self._places(row_ids.cpu().numpy(), which)
        answers = self._answers(places, row_ids.device)
        if not needs or self._cache is None:
            return TeacherOutputs(answers)
        states = self._cache.read(places, row_ids.device)
        layers = projected_layers(needs)
        return TeacherOutputs(
            answers,
            tuple(states.values()) if "hidden_states" in needs else (),
            projections=self.live.projected(layers, states) if layers else {},
        )

    def _keeps(self, needs: frozenset[str]) -> bool:
        """Return whether the states that are kept answer what is asked for."""
        wanted = states_for(needs, self.live.model)
        return wanted is not None and self._cache is not None and {*wanted} <= {*self._cache.states}

    def _places(self, row_ids: NDArray[np.int64], parts: NDArray[np.int64]) -> NDArray[np.int64]:
        wanted = row_ids * self._parts + parts
        found = np.searchsorted(self._ids, wanted)
        found = np.minimum(found, len(self._ids) - 1)
        missing = row_ids[(self._ids[found] != wanted) | (parts >= self._parts)]
        if len(missing):
            raise DataError(
                f"cached teacher: row {missing[0]} is not cached; keep the `row_id` column "
                "(remove_unused_columns=False) and ask for training or selection rows only"
            )
        return self._order[found]

    def _answers(self, places: NDArray[np.int64], device: torch.device) -> Tensor:
        """Return the kept outputs, those for each token padded. Shape: (B, K) or (B, T, K)."""
        if not self._by_token:
            return self._logits[torch.from_numpy(places)].to(device)
        batch = padded(self._logits.numpy()[None], self._lengths, places, self._left)
        return torch.from_numpy(batch[0]).to(device)

    def _read_or_compute(self, workdir: Path, batch_size: int) -> Tensor:
        path, cache = workdir / "teacher-logits.safetensors", self._cache
        mark = self._fingerprint()
        known = path.exists() and _mark(path) == mark
        if not known:
            # Of another teacher. What is written anew stays: another process may open it by now.
            others = {*workdir.glob("teacher-hidden*.npy")} - ({cache.path} if cache else set())
            for stale in others:
                stale.unlink(missing_ok=True)
        if not known or (cache is not None and not cache.path.exists()):
            workdir.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # last written, first removed: it vouches for the others
            self._compute(path, batch_size, mark)
        if cache is not None:
            cache.open()
        with safe_open(path, framework="pt") as stored:
            self._by_token = (stored.metadata() or {}).get("for") == "tokens"
            logits: Tensor = stored.get_tensor("logits")  # mapped: only what is used is in memory
        return logits

    def _compute(self, path: Path, batch_size: int, mark: str) -> None:
        assert self.live.tokenizer is not None
        assert self.live.data is not None
        collate = self.live.data.collator(self.live.tokenizer)
        logits: StoredRows | None = None
        needs = frozenset({"hidden_states"} if self._cache is not None else ())
        firsts = np.cumsum([0, *map(len, self._splits)])
        starts = np.concatenate([[0], np.cumsum(self._lengths)])
        for places in self._batches(batch_size):
            owners = np.searchsorted(firsts, places, side="right") - 1
            within = (places - firsts[owners]).tolist()
            each = zip(owners.tolist(), within, strict=True)
            batch = collate([self._splits[split][row] for split, row in each])
            answer = self.live.answer(batch, needs)
            real = batch["attention_mask"].bool().cpu()
            by_token = answer.logits.ndim == 3
            if logits is None:
                rows = int(starts[-1]) if by_token else len(self._lengths)
                told = {"fingerprint": mark, "for": "tokens" if by_token else "texts"}
                shape = (rows, answer.logits.shape[-1])
                logits = StoredRows(partial_path(path), "logits", shape, told)
            for place, kept, shown in zip(places.tolist(), answer.logits.cpu(), real, strict=True):
                start = int(starts[place]) if by_token else place
                logits.put(start, kept[shown] if by_token else kept)
            if self._cache is not None:
                self._cache.keep(places, answer.hidden_states, real)
        if self._cache is not None:
            self._cache.finish()
        assert logits is not None
        logits.close()
        partial_path(path).rename(path)

    def _batches(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Yield places of features of like length, those without labels apart from the others."""
        for start, end in ((0, self._alike), (self._alike, len(self._lengths))):
            by_length = start + np.argsort(self._lengths[start:end], kind="stable")
            yield from (by_length[i : i + size] for i in range(0, end - start, size))

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in self.live.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        for array in (self._ids, self._lengths):
            digest.update(array.tobytes())
        assert self.live.data is not None
        digest.update(self.live.data.fingerprint.encode())
        return digest.hexdigest()


def _parts_of(split: Dataset) -> NDArray[np.int64]:
    """Return the place of each feature among those of its row. Shape: (F,)."""
    if "part" in split.column_names:
        return np.asarray(split["part"][:], np.int64)
    return np.zeros(len(split), np.int64)


def _mark(path: Path) -> str | None:
    with safe_open(path, framework="pt") as stored:
        metadata: dict[str, str] = stored.metadata() or {}
    return metadata.get("fingerprint")
