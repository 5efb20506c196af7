"""Uploads that mean no good, made from valid photos; for ``python -m bench serve`` and for tests."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def hostile(photo, count, seed=0):
    """``(kind, bytes)`` of so many uploads: each wrong kind once, then changed photos in turns."""
    rng = np.random.default_rng(seed)
    photos = [photo, *(encoded(photo, kind) for kind in ("PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF"))]
    fixed = list(wrong_kinds(photo))
    yield from fixed[:count]
    changes = (flipped, cut, joined, grown, swapped)
    for i in range(count - len(fixed)):
        change, data = changes[i % len(changes)], photos[rng.integers(len(photos))]
        yield change.__name__, change(data, rng)


def encoded(photo, kind):
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    file = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as image:
        image.convert("RGB").save(file, kind)
    return file.getvalue()


def wrong_kinds(photo):
    yield "nothing", b""
    yield "a byte", b"\xff"
    yield "text", b"The quick brown fox jumps over the lazy dog. " * 50
    yield "html", b"<!doctype html><script>fetch('/v1/model')</script>"
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "pdf", b"%PDF-1.7\n1 0 obj <</Type/Catalog>> endobj"
    yield "zip", b"PK\x03\x04" + bytes(200)
    yield "elf", b"\x7fELF" + bytes(200)
    yield "jpeg and zip", photo + b"PK\x03\x04" + bytes(200)
    yield "jpeg with a script as comment", photo[:2] + b"\xff\xfe\x00\x1b<script>alert(1)</script>" + photo[2:]
    yield "jpeg header alone", photo[:20]
    yield "png bomb by its header", png(60_000, 60_000, b"")
    yield "png bomb", png(12_000, 12_000, zlib.compress(bytes(12_000 * 1501), 9))
    yield "png of no size", png(0, 0, b"")
    yield (
        "png text bomb",
        png(32, 32, zlib.compress(bytes(33 * 32)), b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7), 9)),
    )
    yield "gif of 65535 pixels", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b","
    yield (
        "bmp of 2 gigapixels",
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 60, 0, 0, 54, 40, 46000, 46000, 1, 24, *[0] * 6),
    )
    yield "tiff whose directory is itself", b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
    yield "heif of nothing", struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic"
    yield "avif of nothing", struct.pack(">I", 24) + b"ftypavif\0\0\0\0mif1avif"
    yield "webp with a lying length", b"RIFF\xff\xff\xff\x7fWEBPVP8 \xff\xff\xff\x7f" + bytes(30)
    yield "exif that is no exif", photo[:2] + b"\xff\xe1\x00\x20Exif\0\0II*\0\xff\xff\xff\xff" + bytes(16) + photo[2:]


def png(width, height, pixels, name=b"tEXt", more=b"a\0b"):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1 if width > 100 else 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(name, more) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def flipped(data, rng):
    changed = np.frombuffer(data, np.uint8).copy()
    at = rng.integers(len(changed), size=rng.integers(1, 40))
    changed[at] = rng.integers(256, size=len(at))
    return changed.tobytes()


def cut(data, rng):
    return data[: rng.integers(1, len(data))]


def joined(data, rng):
    middle = rng.integers(len(data))
    return data[:middle] + rng.bytes(int(rng.integers(1, 400))) + data[middle:]


def grown(data, rng):
    return data + rng.bytes(int(rng.integers(1, 4000)))


def swapped(data, rng):
    head = rng.integers(4, 64)
    return rng.bytes(int(head)) + data[head:]
