"""Captions as the bytes of their UTF-8 form (as ByT5, Xue et al. 2022): nothing to download, every
language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from lapflow.core.condition import CAPTION, Annotations, Condition, Conditioner, Spec, Tokens, TokensSpec
from lapflow.core.dataset import annotation
from lapflow.core.errors import DataError, printable

PAD = 256
"""The id behind a caption's last byte: padding is a token as any other, with an embedding that is learnt. So
no kernel needs a mask, and a sample does not depend on the others of its batch."""


class ByteCaptions(Conditioner):
    """The annotation `caption` as the part `caption`: `length` ids, the caption's bytes and then `PAD`."""

    needs = ("caption",)

    def __init__(
        self,
        class_names: Sequence[str] = (),
        *,
        length: Annotated[int, Field(ge=1, description="tokens of every caption: bytes and padding")] = 64,
        truncate: Annotated[
            bool, Field(description="cut captions that are longer; false: refuse them")
        ] = False,
    ) -> None:
        self.length, self.truncate = length, truncate

    def parts(self) -> dict[str, Spec]:
        return {CAPTION: TokensSpec(self.length, vocabulary=PAD + 1)}

    def __call__(self, annotations: Annotations) -> Condition:
        rows = [self._ids(caption) for caption in annotation(annotations, "caption")]
        return Condition({CAPTION: Tokens.of(torch.tensor(rows, dtype=torch.int64).reshape(-1, self.length))})

    def _ids(self, caption: object) -> list[int]:
        if not isinstance(caption, str):
            raise DataError("a caption is a text", got=repr(caption))
        found = list(caption.encode("utf-8"))
        if len(found) > self.length and not self.truncate:
            raise DataError(
                "a caption is longer than the conditioner takes",
                got=f"{len(found)} bytes: {printable(caption[:60])}",
                expected=f"at most {self.length} bytes",
                remedy="raise conditioner.length, or set conditioner.truncate=true",
            )
        return found[: self.length] + [PAD] * (self.length - len(found))
