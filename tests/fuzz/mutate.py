"""Create invalid inputs from valid ones by changes of bytes and JSON values, reproducibly by seed."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

INTERESTING: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 314, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), 0.5, -0.0, 1e308, 1e-308),
    *("", " ", "\0", "0", "-0", "-22", "1e3", "٣", "\u202e", "\ufeff", "\U0010ffff", "x" * 300, "é" * 1100),
    *(
        "{}",
        "[]",
        "{",
        '["http://a/b?c"]',
        '{"a":1}',
        "null",
        "[[[[[[[[",
        "rtmp://h/a/b?c=d",
        "://",
        "a://@/",
    ),
    *([], {}, [[]], [None], {"": 0}, {"a": {"b": []}}, [1, "a", {}]),
)
TOKENS = (
    *(
        b"\0",
        b"\r\n",
        b"\n",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"NaN",
        b"1e999",
        b"\xff",
        b"\xed\xa0\x80",
    ),
    *(b"\\ud800", b"\\u0000", b"//", b"%00", b"?", b"#", b"@", b"PROXY ", b"0\r\n\r\n", b"\xef\xbb\xbf"),
)
MAX_BYTES = 70_000


class Mutator:
    """A source of changed inputs.

    Args:
        chance: the source of randomness.
        seeds: valid inputs; parts of them are also inserted into others.
    """

    def __init__(self, chance: Random, seeds: Sequence[bytes]) -> None:
        self._chance = chance
        self.seeds = seeds

    def draw(self) -> bytes:
        """Return a seed with some changes of its JSON values, of its bytes, or both."""
        data = self._chance.choice(self.seeds)
        kind = self._chance.random()
        if kind < 0.7:
            data = self.with_changed_values(data)
        return self.with_changed_bytes(data) if kind > 0.5 else data

    def noise(self) -> bytes:
        """Return random bytes."""
        return self._chance.randbytes(int(self._chance.expovariate(0.005)))

    def with_changed_values(self, data: bytes) -> bytes:
        """Return `data` with some JSON values replaced, moved, removed or added."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return self.with_changed_bytes(data)
        for _ in range(self._chance.randint(1, 4)):
            value = self._changed(value)
        return json.dumps(value, ensure_ascii=self._chance.random() < 0.5).encode("utf-8", "surrogatepass")

    def with_changed_bytes(self, data: bytes) -> bytes:
        """Return `data` with some bytes changed, removed, repeated or added."""
        for _ in range(1 + int(self._chance.expovariate(0.7))):
            begin = self._chance.randint(0, len(data))
            end = min(len(data), begin + int(self._chance.expovariate(0.1)))
            data = data[:begin] + self._instead_of(data[begin:end]) + data[end:]
        return data[:MAX_BYTES]

    def _instead_of(self, part: bytes) -> bytes:
        match self._chance.randint(0, 5):
            case 0:
                return b""
            case 1:
                return part * self._chance.choice((2, 3, 200))
            case 2:
                return part + self._chance.choice(TOKENS)
            case 3:
                return self._chance.randbytes(self._chance.randint(1, 4)) + part[1:]
            case 4:
                other = self._chance.choice(self.seeds)
                begin = self._chance.randint(0, len(other))
                return other[begin : begin + 40]
        return bytes(byte ^ 1 << self._chance.randint(0, 7) for byte in part[:1]) + part[1:]

    def _changed(self, value: Any) -> Any:
        if isinstance(value, dict) and value and self._chance.random() < 0.9:
            return self._changed_object(value)
        if isinstance(value, list) and value and self._chance.random() < 0.8:
            place = self._chance.randrange(len(value))
            return [*value[:place], self._changed(value[place]), *value[place + self._chance.randint(0, 1) :]]
        if isinstance(value, str) and self._chance.random() < 0.6:
            return self._changed_text(value)
        return self._chance.choice(INTERESTING)

    def _changed_object(self, value: dict[str, Any]) -> dict[str, Any]:
        name = self._chance.choice(list(value))
        match self._chance.randint(0, 5):
            case 0:
                return {key: item for key, item in value.items() if key != name}
            case 1:
                return value | {self._changed_text(name): value[name]}
            case 2:
                return value | {name: value[self._chance.choice(list(value))]}
        return value | {name: self._changed(value[name])}

    def _changed_text(self, text: str) -> str:
        """Return a changed text; a text with JSON inside, as in `msg`, often gets changed JSON."""
        if text[:1] in ("{", "[") and self._chance.random() < 0.7:
            return self.with_changed_values(text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        place = self._chance.randint(0, len(text))
        return (
            text[:place]
            + self._chance.choice(("", "\0", "/", "?a=b", "@", "é", "9", " ", "x" * 300))
            + text[place + 1 :]
        )
