"""Decode choices from bytes, so that a fuzzer of bytes can fuzz code with other inputs."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Reader:
    """A reader of choices from the start of `data`; after its end every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """Whether all bytes are read."""
        return self._at >= len(self._data)

    def number(self, size: int = 1) -> int:
        """Return a number of `size` bytes."""
        return int.from_bytes(self.bytes(size))

    def one_of(self, choices: Sequence[T]) -> T:
        """Return one of up to 256 choices."""
        return choices[self.number() % len(choices)]

    def bytes(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self) -> str:
        """Return up to 255 characters, each of one byte."""
        return self.bytes(self.number()).decode("latin-1")
