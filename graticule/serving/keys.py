"""Who may ask, and how often: keys that are kept as hashes alone, and a bucket of tokens for each asker."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from graticule.errors import BadTableError
from graticule.files import write_text

MOST_ASKERS = 10_000  # whose buckets are remembered; the one that asked longest ago is forgotten first


@dataclass(frozen=True)
class Keys:
    """Names and the SHA-256 of each one's key. A key has 256 random bits, so that its plain hash tells nothing."""

    hashes: dict[str, bytes] = field(repr=False)

    def name_of(self, key: str) -> str | None:
        """Whose key this is. It takes as long whatever part of it is right."""
        digest, found = hashlib.sha256(key.encode()).digest(), None
        for name, known in self.hashes.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def read_keys(path: Path) -> Keys:
    """Keys from a file with ``NAME SHA256`` on each line.

    Raises:
        BadTableError: there is no such file, or a line is none.
    """
    if not path.is_file():
        raise BadTableError(f"there is no file of keys {path}; graticule serve --keys {path} --new-key NAME makes one")
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, digest = line.split()
            hashes[name] = bytes.fromhex(digest)
            if len(hashes[name]) != 32:
                raise ValueError
        except ValueError as error:
            raise BadTableError(f"line {number} of {path} should be a name and 64 hexadecimal digits") from error
    return Keys(hashes)


def add_key(path: Path, name: str) -> str:
    """Write the hash of a new key for somebody, and return the key: it is nowhere else.

    Raises:
        BadTableError: the name has spaces or a key already.
    """
    known = read_keys(path).hashes if path.exists() else {}
    if name in known or not name or len(name.split()) != 1:
        raise BadTableError(f"{name!r} has a key in {path} already, or is no single word; choose another name")
    key = secrets.token_urlsafe(32)
    lines = [f"{who} {digest.hex()}" for who, digest in known.items()]
    write_text(path, "\n".join([*lines, f"{name} {hashlib.sha256(key.encode()).hexdigest()}"]) + "\n")
    return key


class Rates:
    """A bucket of tokens for each asker: so many requests a minute, as many at once after a quiet one.

    Args:
        per_minute: requests; 0 lets all pass.
    """

    def __init__(self, per_minute: float, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._per_second, self._now = per_minute, per_minute / 60, now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, asker: str) -> float:
        """Take a token and return 0, or the seconds until there is one."""
        if not self._most:
            return 0.0
        now = self._now()
        held, then = self._buckets.pop(asker, (self._most, now))
        held = min(self._most, held + (now - then) * self._per_second)
        wait = 0.0 if held >= 1 else (1 - held) / self._per_second
        self._buckets[asker] = (held if wait else held - 1, now)
        if len(self._buckets) > MOST_ASKERS:
            self._buckets.popitem(last=False)
        return wait
