"""Small pictures of the photos that a bundle knows: only where its publisher wants them shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """JPEG files of P known photos, one after the other; those of a bundle on disk are read one at a time.

    Attributes:
        ends: where each picture ends, shape ``(P,)``.
        read: the bytes from a start to an end.
    """

    ends: NDArray[np.int64]
    read: Callable[[int, int], Bytes]

    @classmethod
    def of(cls, pictures: Sequence[bytes | None]) -> Self:
        """Of pictures in the order of the known photos; None where there is none."""
        data = np.frombuffer(b"".join(picture or b"" for picture in pictures), np.uint8)
        ends = np.cumsum([len(picture or b"") for picture in pictures], dtype=np.int64)
        return cls(ends, lambda start, end: data[start:end])

    @classmethod
    def open(cls, path: Path) -> Self:
        """Of a file that :meth:`to_bytes` made.

        Raises:
            LookupError, SafetensorError, ValueError: it is none.
        """

        def read(start: int, end: int) -> Bytes:
            with safe_open(path, "numpy") as file:
                found: Bytes = file.get_slice("jpeg")[start:end]
            return found

        with safe_open(path, "numpy") as file:
            ends, size = file.get_tensor("ends"), file.get_slice("jpeg").get_shape()
        steps = np.diff(ends, prepend=0)
        if ends.ndim != 1 or ends.dtype != np.int64 or (steps < 0).any() or size != [int(ends[-1])]:
            raise ValueError(f"{path.name} is no file of pictures")
        return cls(ends, read)

    def __len__(self) -> int:
        return len(self.ends)

    def grown(self, more: int) -> "Thumbnails":
        """The same where so many known photos follow that have no picture."""
        return Thumbnails(np.append(self.ends, np.full(more, self.ends[-1])), self.read)

    def to_bytes(self) -> bytes:
        """The content of a file of all pictures."""
        content: bytes = save({"jpeg": self.read(0, int(self.ends[-1])), "ends": self.ends})
        return content

    def jpeg(self, index: int) -> bytes | None:
        """The picture of a known photo as it was kept; None where none was."""
        start, end = int(self.ends[index - 1]) if index else 0, int(self.ends[index])
        return self.read(start, end).tobytes() if end > start else None
