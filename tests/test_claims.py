"""Which ratios may be stated, and in which words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bertcompress.measure.timing.claims import ratio_claim, speed_claim


@pytest.mark.parametrize(
    ("ratio", "spreads", "stands", "words"),
    [
        (2.0, (0.03, 0.04), True, "2.00x"),
        (0.5, (0.03, 0.04), True, "0.50x"),
        # Ten times slower than itself by turns: 31.6 times faster than that is no figure.
        (31.6, (1.7, 0.1), False, "not measurable here (spread 170 %)"),
        (1.04, (0.03, 0.04), False, "not measurable here (spread 5 %)"),
        (0.97, (0.05,), False, "not measurable here (spread 5 %)"),
        (1.25, (0.2,), False, "not measurable here (spread 20 %)"),
        (1.25, (0.19,), True, "1.25x"),
        (1.0, (), False, "1.00x"),
    ],
)
def test_a_spread_larger_than_the_claim_voids_it(ratio, spreads, stands, words):
    claim = ratio_claim(ratio, *spreads)
    assert (claim.stands, claim.words) == (stands, words)
    assert claim.faster == (stands and ratio > 1)
    assert claim.exact_words.startswith(words)


def test_a_speed_up_has_the_noise_of_both_sides():
    before = SimpleNamespace(throughput_per_s=100.0, spread=0.3, disturbed=None)
    after = SimpleNamespace(throughput_per_s=250.0, spread=0.4, disturbed=0.1)
    claim = speed_claim(before, after)
    assert (claim.ratio, claim.spread) == pytest.approx((2.5, 0.5))
    assert claim.faster
    assert speed_claim(before, before).spread == 0


def test_nothing_is_claimed_where_most_rounds_were_disturbed():
    """PyTorch was evenly ten times slower than itself: 124 times faster, and no spread told."""
    claim = ratio_claim(124.3, 0.05, 0.05, disturbed=1.0)
    assert not claim.stands and not claim.faster
    assert claim.words == "not measurable here (the machine was busy)"
    assert ratio_claim(2.0, 0.05, 0.05, disturbed=0.3).stands
