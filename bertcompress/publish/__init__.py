"""A finished run to the Hub: its model card."""

from __future__ import annotations

from bertcompress.publish.card import model_card, write_card

__all__ = ["model_card", "write_card"]
