"""What a service takes on, and what it refuses."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a service.

    Attributes:
        bytes: of one request, all its photos together.
        pixels: of one photo.
        photos: of one request.
        seconds: for a request to arrive, and again for its answer.
        requests: that are read or answered at the same time.
        memory: bytes of all their uploads together.
        waiting: photos that wait for the network.
        batch: photos that the network sees at once.
    """

    bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    photos: int = 32
    seconds: float = 60.0
    requests: int = 64
    memory: int = 512 * 2**20
    waiting: int = 256
    batch: int = 16
