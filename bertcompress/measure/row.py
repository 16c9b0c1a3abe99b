"""`Row`: what every record of a measurement is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from bertcompress.wording import clean

__all__ = ["Row"]


class Row(BaseModel):
    """A frozen record of figures, in which an unknown field is an error.

    Its texts are plain: any page and terminal may show them, whoever named a class or a processor.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return clean(value)
