"""The base of all evidence: strict, frozen, and free of NaN and infinity."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from storm_clinic.strict_yaml import StrictModel

Count = Annotated[int, Field(ge=0)]
_NOTHING: tuple[Any, ...] = (None, "", (), [], {})


class Finite(StrictModel):
    """Frozen, refuses unknown keys, and refuses NaN and infinity.

    Fields in ``_later`` came after the first evidence was sealed. They are written only where they
    say something, so that what was written before keeps its digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    _later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = handler(self)
        return {k: v for k, v in written.items() if k not in self._later or v not in _NOTHING}
