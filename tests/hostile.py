"""Files that a stranger might hand in."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path


def npy(header: bytes, body: bytes = b"") -> bytes:
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def dictionary(shape: str, descr: str = "<f8") -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()


def zip_bomb(path: Path, size: int = 3 << 30) -> None:
    """An npz of a few MB whose one array unpacks to `size` zeros."""
    block = bytes(1 << 24)
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    # The same compressed megabytes again and again: full flushes make each block stand alone.
    first = pack.compress(npy(dictionary(f"({size // 8},)"))) + pack.flush(zlib.Z_FULL_FLUSH)
    one = pack.compress(block) + pack.flush(zlib.Z_FULL_FLUSH)
    data = first + one * (size // len(block)) + pack.flush()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.npy", data)
    raw = bytearray(buffer.getvalue())
    place = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<H", raw, place + 10, zipfile.ZIP_DEFLATED)
    struct.pack_into("<I", raw, place + 24, min(size + 128, 0xFFFFFFFE))
    struct.pack_into("<H", raw, 8, zipfile.ZIP_DEFLATED)
    path.write_bytes(raw)
