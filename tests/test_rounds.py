"""Which rounds are repeated and which count, with a clock and a load that are made up."""

from __future__ import annotations

import os

import numpy as np
import pytest
from report_support import sample_report

from bertcompress.measure.timing.candidates import Candidate, busy_words, machine_load
from bertcompress.measure.timing.rounds import Times, counted, take_rounds
from bertcompress.measure.timing.served import Served, timings_of
from bertcompress.report import Report
from bertcompress.runtimes.hardware import Others


class Machine:
    """Workers whose answers tell the turn they came in, beside a load and a clock."""

    def __init__(self, busy=(), round_s=1.0):
        self.turns, self.now, self.watched = [], 0.0, 0
        self._busy, self._round_s = list(busy), round_s

    def worker(self, name):
        machine = self

        class Worker:
            def ask(self, do, *, repeats, warmup=1, **request):
                if warmup == 1:
                    machine.turns.append((name, request["batch"]))
                return {"ms": [float(len(machine.turns))] * repeats}

        return Worker()

    def watch(self):
        """The first call begins; each further one ends a round of one shape."""
        self.watched += 1
        if self.watched == 1:
            return 99.0  # what came before the first round is no round's
        self.now += self._round_s
        return self._busy.pop(0) if self._busy else 0.0

    def take(self, shapes=((1, 8),), workers=2, **options):
        requests = [{shape: {"batch": shape[0]} for shape in shapes} for _ in range(workers)]
        return take_rounds(
            [self.worker(i) for i in range(workers)],
            requests,
            self.watch,
            **{"rounds": 4, "seconds": 100.0, "clock": lambda: self.now} | options,
        )


def test_a_quiet_machine_repeats_nothing():
    machine = Machine()
    one, other = machine.take()
    assert machine.turns == [(0, 1), (1, 1)] * 4
    assert one[1, 8].busy == (0.0,) * 4
    assert one[1, 8].ms.shape[0] == other[1, 8].ms.shape[0] == 4
    assert one[1, 8].disturbed == 0


def test_disturbed_rounds_are_repeated_and_do_not_count():
    machine = Machine(busy=[0.0, 1.4, 0.1, 0.9, 0.2])
    one, other = machine.take()
    assert machine.turns == [(0, 1), (1, 1)] * 6
    assert one[1, 8].busy == (0.0, 0.1, 0.2, 0.0)
    assert one[1, 8].disturbed == 0
    # Both sides lose the same rounds: a ratio is of the same moments.
    assert (other[1, 8].ms - one[1, 8].ms == 1).all()
    assert one[1, 8].ms[:, 0, 0].tolist() == [1.0, 5.0, 9.0, 11.0]


def test_only_the_shapes_that_were_disturbed_come_again():
    machine = Machine(busy=[0, 0, 0, 0.8, 0, 0, 0, 0])
    machine.take(shapes=((1, 8), (8, 8)))
    assert machine.turns[16:] == [(0, 8), (1, 8)]


def test_repeating_ends_and_says_what_stayed_disturbed():
    machine = Machine(busy=[1.0 + i / 10 for i in range(20)])
    one, _ = machine.take()
    assert len(machine.turns) == 2 * 8  # as many again, not more
    assert one[1, 8].busy == (1.0, 1.1, 1.2, 1.3)
    assert one[1, 8].disturbed == 1


def test_time_ends_both_the_rounds_and_their_repeating():
    machine = Machine(busy=[1.0] * 20, round_s=10.0)
    one, _ = machine.take(seconds=25.0)
    assert len(machine.turns) == 2 * 6  # three at least, then until twice the time is over
    assert len(one[1, 8].busy) == 3


@pytest.mark.parametrize(
    ("busy", "planned", "kept"),
    [
        ([0, 0, 0, 0], 4, [0, 1, 2, 3]),
        ([0, 0.5, 0, 0.1], 4, [0, 2, 3]),
        ([0.31, 0.3, 0.29, 0.5, 0.0], 3, [1, 2, 4]),
        ([0.9, 0.0, 0.8, 0.7, 0.0], 4, [1, 2, 3, 4]),
        ([0.9], 1, [0]),
        ([0.9, 0.1], 1, [1]),
    ],
)
def test_undisturbed_rounds_count_or_else_the_least_disturbed(busy, planned, kept):
    assert counted(busy, planned) == kept


def looks(*seen):
    """Stands in for the counters of the system."""
    left = list(seen)
    return lambda ours: left.pop(0)


def test_others_are_what_is_used_and_not_ours():
    seen = []

    def look(ours):
        seen.append(ours)
        return [(0.0, 10.0, 2.0), (10.0, 25.0, 7.0), (20.0, 33.0, 15.0)][len(seen) - 1]

    others = Others([7], look)
    # 15 seconds used, 5 of them ours; what the grain of the counters may hide is not counted.
    assert others() == pytest.approx(1.0, abs=0.01)
    assert others() == 0.0
    assert seen == [(os.getpid(), 7)] * 3


def test_a_moment_too_short_to_tell_is_quiet():
    assert Others((), looks((0.0, 0.0, 0.0), (0.01, 0.01, 0.0)))() == 0.0
    assert Others((), looks((0.0, 0.0, 0.0), (0.0, 1.0, 0.0)))() == 0.0


def test_the_counters_of_this_system_move():
    others = Others()
    sum(i * i for i in range(300_000))
    assert others() >= 0
    assert Others([2**22 + 1])() >= 0  # a process that has ended is none


def served(busy):
    times = Times(np.ones((len(busy), 2, 1)), tuple(busy))
    answer = {"runtime": "torch", "precision": "fp32", "load_s": 1.0, "memory_mb": 1.0}
    return Served(0, answer, {(1, 8): times})


def test_what_stays_disturbed_is_in_the_rows_and_said():
    (timing,) = timings_of([Candidate("a")], [served([0.0, 0.2, 1.0, 0.4])], 1)
    assert timing.latency[0].disturbed == 0.5
    assert (timing.busy_cores, timing.disturbed) == (pytest.approx(0.4), 0.5)
    load = machine_load([timing, *timings_of([Candidate("b")], [served([0.0])], 1)])
    assert load == {"busy_cores": 0.4, "disturbed_rounds": 0.5}
    (words,) = busy_words(*load.values())
    assert "0.4 cores busy during the timing" in words
    assert "50 % of the rounds stayed disturbed after repeating them" in words
    assert busy_words(None) == busy_words(0.1) == busy_words(0.1, 0.0) == []
    assert machine_load([]) == {"busy_cores": 0.0, "disturbed_rounds": 0.0}


def test_the_report_warns_of_it():
    report = sample_report()
    fields = {name: getattr(report, name) for name in ("recipe", "task")}
    host = {**report.environment, "busy_cores": 0.2, "disturbed_rounds": 0.25}
    made = Report.of(report.stages, environment=host, **fields)
    assert sum("25 % of the rounds stayed" in words for words in made.verdict.warnings) == 1
