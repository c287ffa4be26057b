"""TFRecord files of tf.train.Example messages, without TensorFlow.

A file is a sequence of records: each is its length (8 bytes), 4 bytes of checksum, the record and
4 bytes of checksum. A record is a message of protocol buffers: a sequence of fields, each a key
(number and type), for most types a length, and a value. The message is

    Example     { Features features = 1; }
    Features    { map<string, Feature> feature = 1; }
    Feature     { BytesList bytes_list = 1; or FloatList float_list = 2; or Int64List ... = 3; }
    BytesList   { repeated bytes value = 1; }
    FloatList   { repeated float value = 1; }

The checksums are not looked at: a gzip stream, which the file is here, has one of its own.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LONGEST = 2**24  # bytes of a record; those of CLEVR with masks have 3.2 million

BYTES_LIST, FLOAT_LIST = 1, 2  # fields of a Feature
VARINT, FIXED_64, WITH_LENGTH, FIXED_32 = 0, 1, 2, 5  # types of a field

Features = dict[str, tuple[int, memoryview]]  # name -> which list, and the list itself


class BadFile(ValueError):
    """The file is cut off, or is no gzip stream of TFRecords."""


def records(path: Path) -> Iterator[memoryview]:
    """Yield the records of a gzip stream; raise BadFile after the last good one."""
    try:
        with gzip.open(path) as stream:
            while head := stream.read(12):
                length = int.from_bytes(head[:8], "little")
                if len(head) < 12 or length > LONGEST:
                    raise BadFile("does not begin as a TFRecord does")
                record = stream.read(length + 4)
                if len(record) < length + 4:
                    raise BadFile(f"is cut off, {len(record):,} of {length + 4:,} bytes are there")
                yield memoryview(record)[:-4]
    except (EOFError, OSError, zlib.error) as error:
        raise BadFile(f"cannot be unpacked ({error})") from None


def features(record: memoryview) -> Features:
    """Return the features of an Example. Raises ValueError where the record is none."""
    try:
        entries = [
            dict(_fields(entry))
            for _, all_features in _fields(record)
            for _, entry in _fields(all_features)
        ]
        return {
            bytes(entry[1]).decode(): next(_fields(entry[2])) for entry in entries if len(entry[2])
        }
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"is not a tf.train.Example ({error!r})") from None


def one_byte_strings(found: Features, name: str, count: int) -> np.ndarray:
    """Return a feature of `count` strings of one byte, (count,) uint8. Raises ValueError.

    Some authors store arrays of uint8 so. Each string takes three bytes, of which the first two are
    the field's key and the length.
    """
    which, strings = found.get(name, (None, b""))
    content = np.frombuffer(strings, np.uint8)
    key, length = 1 << 3 | WITH_LENGTH, 1
    if (
        which != BYTES_LIST
        or len(content) != 3 * count
        or np.any(content[::3] != key)
        or np.any(content[1::3] != length)
    ):
        raise ValueError(f"holds no feature {name!r} of {count:,} strings of one byte")
    return content[2::3]


def floats(found: Features, name: str, count: int) -> np.ndarray:
    """Return a feature of `count` numbers, (count,) float32. Raises ValueError."""
    which, numbers = found.get(name, (None, b""))
    try:
        content = b"".join(value for _, value in _fields(numbers)) if which == FLOAT_LIST else b""
    except (IndexError, TypeError, ValueError):
        content = b""
    if len(content) != 4 * count:
        raise ValueError(f"holds no feature {name!r} of {count:,} floats")
    values = np.frombuffer(content, "<f4")
    if not np.isfinite(values).all():
        raise ValueError(f"holds a feature {name!r} with what is no number")
    return values


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and value of each field of a message. Raises IndexError or ValueError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
        elif kind in (FIXED_64, WITH_LENGTH, FIXED_32):
            length = {FIXED_64: 8, FIXED_32: 4}.get(kind)
            if length is None:
                length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"a field of type {kind}")
        if at > len(message):
            raise ValueError("a field that goes beyond the end")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and where it ends.

    Raises ValueError for one of more than 64 bits.
    """
    number = shift = 0
    while message[at] > 127:
        if shift == 63:
            raise ValueError("a number of more than 64 bits")
        number |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | message[at] << shift, at + 1
