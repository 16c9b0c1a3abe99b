"""A finished run to the Hub and back: its model card, upload and download."""

from __future__ import annotations

from bertcompress.publish.card import CardFacts, card_facts, render, write_card
from bertcompress.publish.push import pull, push

__all__ = ["CardFacts", "card_facts", "pull", "push", "render", "write_card"]
