"""Reads choices out of bytes, so that whatever makes bytes can fuzz what is no bytes."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Reader:
    """Takes choices from the front of `data`; at its end every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)

    def number(self, size: int = 1) -> int:
        """Return a number of so many bytes."""
        return int.from_bytes(self.bytes(size))

    def one_of(self, choices: Sequence[T]) -> T:
        """Return one of up to 256 choices."""
        return choices[self.number() % len(choices)]

    def bytes(self, size: int) -> bytes:
        """Return up to so many bytes."""
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self) -> str:
        """Return up to 255 characters, each of one byte."""
        return self.bytes(self.number()).decode("latin-1")
