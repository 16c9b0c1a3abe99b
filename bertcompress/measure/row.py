"""`Row`: what every record of a measurement is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Row"]


class Row(BaseModel):
    """A frozen record of figures, in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
