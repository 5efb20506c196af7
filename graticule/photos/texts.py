"""The text of a file: unpacked by its first bytes, decoded by its mark."""

import bz2
import gzip
import lzma
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from graticule.errors import BadTableError, note

PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\0": lzma.decompress,
}
PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def suffix_of(file: Path) -> str:
    """The suffix in small letters, of ``a.json.gz`` that of what is packed."""
    name = file.with_suffix("") if file.suffix.lower() in PACKED_SUFFIXES else file
    return name.suffix.lower()


def first_bytes(file: Path, count: int = 1024) -> bytes:
    """How a file begins, unpacked."""
    with file.open("rb") as begin:
        head = begin.read(count)
    return (unpacked(file) or b"")[:count] if _unpack(head) else head


def unpacked(file: Path) -> bytes | None:
    """What a compressed file holds, or None where it is none.

    Raises:
        BadTableError: it is damaged.
    """
    with file.open("rb") as begin:
        unpack = _unpack(begin.read(8))
    try:
        return unpack(file.read_bytes()) if unpack else None
    except (EOFError, OSError, ValueError, lzma.LZMAError) as error:
        raise BadTableError(
            f"{file} cannot be unpacked ({error}): it is damaged or cut short; copy it again"
        ) from error


def utf8(file: Path, encoding: str | None = None) -> Path | BytesIO:
    """The file itself where it is plain UTF-8 by what can be seen, else its text in UTF-8.

    Raises:
        BadTableError: as :func:`unpacked`.
        UnicodeError, LookupError: it is not text of the encoding, or there is no such.
    """
    data = unpacked(file)
    head = first_bytes(file, 4) if data is None else data[:4]
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if not marked and re.fullmatch(rb"[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", head, re.DOTALL):  # Latin letters, two bytes each
        marked = "utf-16-be" if head[0] == 0 else "utf-16-le"
    if marked and not encoding:
        note(f"{file}: read as {marked.upper()}, as its first bytes say")
    if wanted := encoding or marked:
        return BytesIO((file.read_bytes() if data is None else data).decode(wanted).encode())
    return file if data is None else BytesIO(data)


def utf8_bytes(file: Path, encoding: str | None = None) -> bytes:
    """As :func:`utf8`, in memory and without a byte order mark."""
    text = utf8(file, encoding)
    data = text.read_bytes() if isinstance(text, Path) else text.getvalue()
    return data.removeprefix(b"\xef\xbb\xbf")


def is_binary(head: bytes) -> bool:
    """Whether bytes hold control characters, as no text in UTF-8 or of one byte a letter does."""
    return bool(re.search(rb"[\0-\x08\x0e-\x19]", head))


def _unpack(head: bytes) -> Callable[[bytes], bytes] | None:
    return next((unpack for magic, unpack in PACKED.items() if head.startswith(magic)), None)
