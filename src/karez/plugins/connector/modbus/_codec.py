"""The data types: how many registers a value takes, in which order its bytes stand, and what it becomes in Python."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import Any

Number = int | float
Finish = Callable[[Any], Any]

NUMBERS = {
    "INT16": ("h", 1), "UINT16": ("H", 1), "INT32": ("i", 2), "UINT32": ("I", 2), "INT64": ("q", 4), "UINT64": ("Q", 4),
    "FLOAT16": ("e", 1), "FLOAT32": ("f", 2), "FLOAT64": ("d", 4),
}  # fmt: skip
INTEGERS = frozenset(name for name in NUMBERS if "INT" in name)
TYPES = (*NUMBERS, "BITS", "BOOL", "STRING")
_ALIASES = {
    "short": "INT16", "ushort": "UINT16", "word": "UINT16", "int": "INT32", "uint": "UINT32", "dword": "UINT32", "long": "INT64",
    "ulong": "UINT64", "qword": "UINT64", "half": "FLOAT16", "float": "FLOAT32", "real": "FLOAT32", "double": "FLOAT64",
    "bit": "BOOL", "boolean": "BOOL", "str": "STRING", "text": "STRING",
}  # fmt: skip
_LITTLE = frozenset({"0", "little", "<", "le", "l"})
_BIG = frozenset({"1", "big", ">", "be", "b"})
_LETTERS = {"abcd": ("big", "big"), "cdab": ("big", "little"), "badc": ("little", "big"), "dcba": ("little", "little")}
_BITS_OF_BYTE = tuple(tuple(bool(byte >> bit & 1) for bit in range(8)) for byte in range(256))


def parse_type(text: Any) -> str:
    """The name of a data type, however it is spelled: `INT16`, `int16`, `16int`, `short`; raises `ValueError`."""
    word = re.sub(r"[^a-z0-9]", "", str(text).lower())
    # the published Karez writes the width first: 16uint, 32float
    if swapped := re.fullmatch(r"(\d+)(u?int|float)", word):
        word = swapped[2] + swapped[1]
    name = _ALIASES.get(word, word.upper())
    if name not in TYPES:
        near = difflib.get_close_matches(word, [known.lower() for known in TYPES] + list(_ALIASES), n=1)
        hint = f"did you mean `{near[0].upper()}`?" if near else f"there are {', '.join(TYPES)}"
        raise ValueError(f"unknown data type `{text}`; {hint}")
    return name


def parse_order(value: Any) -> tuple[str, str | None]:
    """The byte order that a spelling means, and the word order if it says that too (`CDAB`); raises `ValueError`."""
    word = str(value).strip().lower().removesuffix(".0")
    if word in _LETTERS:
        return _LETTERS[word]
    if word in _LITTLE or word in _BIG:
        return "little" if word in _LITTLE else "big", None
    raise ValueError(f"unknown order `{value}`; write big, little, >, <, 1, 0, or ABCD, CDAB, BADC, DCBA for bytes and words")


def parse_encoding(name: Any) -> str:
    """The name of a text encoding; raises `ValueError`."""
    try:
        return codecs.lookup(str(name)).name
    except LookupError:
        raise ValueError(f"unknown encoding `{name}`; write utf-8, latin-1, ascii, ...") from None


@dataclass(frozen=True, slots=True)
class Layout:
    """How one value lies in its registers (or bits): what `struct` unpacks, from which bytes, and what is done with it then."""

    words: int
    code: str
    order: tuple[int, ...]
    finish: Finish | None


@lru_cache(maxsize=4096)
def number_layout(type_name: str, byte_order: str, word_order: str, scale: Number = 1, add: Number = 0) -> Layout:
    """The layout of a number."""
    code, words = NUMBERS[type_name]
    return Layout(words, code, _positions(words, byte_order, word_order), _scaling(scale, add))


@lru_cache(maxsize=1024)
def bit_layout(type_name: str, byte_order: str, word_order: str, bit: int | None) -> Layout:
    """The layout of one bit of a number, or of whether any is set."""
    code, words = NUMBERS[type_name]
    finish: Finish = bool if bit is None else lambda raw: bool(raw >> bit & 1)
    return Layout(words, code, _positions(words, byte_order, word_order), finish)


@lru_cache(maxsize=1024)
def text_layout(length: int, byte_order: str, encoding: str) -> Layout:
    """The layout of a text of so many bytes, two in a register."""
    words = (length + 1) // 2
    return Layout(words, f"{length}s", _positions(words, byte_order, "big")[:length], _text(encoding))


@lru_cache(maxsize=256)
def bit_list_layout(words: int, byte_order: str) -> Layout:
    """The layout of all bits of so many registers."""
    return Layout(words, f"{2 * words}s", _positions(words, byte_order, "big"), unpack_bits_by_register)


@lru_cache(maxsize=256)
def coil_layout(count: int, as_list: bool) -> Layout:
    """The layout of coils or discrete inputs: one bool, or a list of them."""
    return Layout(count, "", (), list if as_list else None)


def unpack_bits(data: bytes) -> list[bool]:
    """The bits of packed bytes, the lowest bit of a byte first, as coils are sent."""
    return list(chain.from_iterable(map(_BITS_OF_BYTE.__getitem__, data)))


def unpack_bits_by_register(data: bytes) -> list[bool]:
    """The bits of registers, the lowest bit of each register first."""
    return [bit for high in range(0, len(data), 2) for bit in (*_BITS_OF_BYTE[data[high + 1]], *_BITS_OF_BYTE[data[high]])]


def _positions(words: int, byte_order: str, word_order: str) -> tuple[int, ...]:
    """Where to find the bytes of a value, the most significant first."""
    registers = range(words) if word_order == "big" else reversed(range(words))
    pair = (0, 1) if byte_order == "big" else (1, 0)
    return tuple(2 * register + byte for register in registers for byte in pair)


def _scaling(scale: Number, add: Number) -> Finish | None:
    if scale == 1 and add == 0:
        return None
    # a tenth has no exact float: raw / 10 is the nearest float to the true value, raw * 0.1 often is not
    exact = Decimal(str(scale))
    divisor = round(1 / exact) if 0 < abs(exact) < 1 else 0
    if divisor and exact * divisor == 1:
        return (lambda raw: raw / divisor + add) if add else (lambda raw: raw / divisor)
    return (lambda raw: raw * scale + add) if add else (lambda raw: raw * scale)


def _text(encoding: str) -> Finish:
    def finish(raw: bytes) -> str:
        # devices pad with NUL or blanks; what follows a NUL is left over from a longer text
        return raw.split(b"\0", 1)[0].decode(encoding).rstrip()

    return finish
