"""Seeded mutations of bytes and of JSON: what transfers, disks, converters and attackers do to files."""

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from tests.hostile_inputs import NASTY

# Numbers at which lengths, counts and offsets go wrong.
LENGTHS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# A DICOM sequence in a sequence in a sequence …, each of undefined length.
NESTED_DICOM = (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * 3000
PIXEL_DATA = b"\xe0\x7f\x10\x00"
# Bytes within which headers lie.
HEAD = 600

Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def _position(data: bytearray, draw: random.Random) -> int:
    end = min(len(data), HEAD) if draw.random() < 0.5 else len(data)
    return draw.randrange(end + 1)


def flip(data: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Change a few bytes."""
    for _ in range(draw.choice((1, 1, 2, 8))):
        if data:
            data[min(_position(data, draw), len(data) - 1)] ^= 1 << draw.randrange(8)


def overwrite(data: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Replace a run of bytes with others, with zeros or with ones."""
    at, length = _position(data, draw), draw.randint(1, 64)
    content = draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length)))
    data[at : at + length] = content[: max(0, len(data) - at)]


def truncate(data: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Cut the end off."""
    del data[_position(data, draw) :]


def splice(data: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Continue with the content of another file."""
    other = draw.choice(others)
    data[_position(data, draw) :] = other[draw.randrange(len(other) + 1) :]


def repeat(data: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Insert a piece a second time, or many times."""
    at, length = _position(data, draw), draw.randint(1, 300)
    data[at:at] = bytes(data[at : at + length]) * draw.choice((1, 1, 2, 200))


def remove(data: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Leave a piece out."""
    at = _position(data, draw)
    del data[at : at + draw.choice((1, 2, 4, 60, 1000))]


def set_length(data: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Write a number at which lengths go wrong, in two, four or eight bytes of either order."""
    form, number = draw.choice("<>") + draw.choice("HIQ"), draw.choice(LENGTHS) + draw.choice((0, 0, 1))
    content, at = struct.pack(form, number % (1 << (8 * struct.calcsize(form)))), _position(data, draw)
    data[at : at + len(content)] = content


def nest(data: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Insert sequences in sequences, without end."""
    marker = data.find(PIXEL_DATA)
    at = marker if marker >= 0 and draw.random() < 0.7 else _position(data, draw)
    data[at:at] = draw.choice((NESTED_DICOM, b"[" * 20_000, b'{"a":' * 20_000))


MUTATIONS: tuple[Mutation, ...] = (flip, flip, overwrite, truncate, splice, repeat, remove, set_length, set_length)
RARE: tuple[Mutation, ...] = (nest,)


def mutated(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """The bytes after one to three mutations; `others` are files that pieces are taken from."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        draw.choice(RARE if draw.random() < 0.04 else MUTATIONS)(changed, draw, others)
    return bytes(changed)


def changed_by_a_byte(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one of them changed; never the same bytes."""
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ draw.randint(1, 255)]) + data[at + 1 :]


def png_with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that their content is read."""
    pieces, at = [data[:8]], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        pieces += [data[at : at + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        at += 12 + length
    return b"".join([*pieces, data[at:]])


def mutated_json(text: str, draw: random.Random) -> bytes:
    """JSON with one to three values replaced, removed or renamed, or nested without end; sometimes only its bytes."""
    if draw.random() < 0.2:
        return mutated(text.encode(), draw, [text.encode()])
    if draw.random() < 0.03:
        return b'{"a":' * 30_000 if draw.random() < 0.5 else b"[" * 100_000
    values = json.loads(text)
    for _ in range(draw.randint(1, 3)):
        _replace(values, draw)
    return json.dumps(values, default=str).encode("utf-8", "surrogatepass")


def _replace(values: Any, draw: random.Random) -> None:
    parent = values
    while parent:
        key = draw.choice(list(parent)) if isinstance(parent, dict) else draw.randrange(len(parent))
        if not (isinstance(parent[key], (dict, list)) and parent[key]) or draw.random() < 0.25:
            break
        parent = parent[key]
    else:
        return
    change = draw.random()
    if change < 0.15:
        del parent[key]
    elif change < 0.25 and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    else:
        value = draw.choice(NASTY)
        parent[key] = {str(name): inner for name, inner in value.items()} if isinstance(value, dict) else value
