"""A finished run to the Hub: its model card, and the upload."""

from __future__ import annotations

from bertcompress.publish.card import CardFacts, card_facts, render, write_card
from bertcompress.publish.hub import push

__all__ = ["CardFacts", "card_facts", "push", "render", "write_card"]
