"""Features of photos: computed in batches, and kept for encoders that do not change."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graticule.errors import BadPhotoError, BadRecipeError
from graticule.files import atomic_file, cache_folder
from graticule.model.geolocator import Geolocator
from graticule.model.loading import (
    Batches,
    Photo,
    PhotoDataset,
    Progress,
    ShapeBatches,
    read_bytes,
    shapes_of,
    silent,
    worker_count,
)
from graticule.model.preprocess import Preprocess
from graticule.photos.images import content_hash
from graticule.photos.shards import measured

KEEP = 4096  # features that are written at once


class FeatureStore:
    """Features of photos on disk, by the photo's own bytes, for one encoder and one preprocessing.

    Args:
        folder: where the features of all encoders lie; none keeps them in memory alone.
        limit_bytes: what the folder may hold; the files that were read longest ago go first.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: float = math.inf) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._known: dict[str, dict[str, NDArray[np.float32]]] = {}

    def read(self, key: str) -> dict[str, NDArray[np.float32]]:
        """Features by content hash for one encoder; empty where nothing is known."""
        if key not in self._known:
            known = self._known[key] = {}
            for path in sorted((self.folder / key).glob("*.npz")) if self.folder else ():
                with suppress(FileNotFoundError), np.load(path) as held:  # another process may have made room
                    known.update(zip(held["photos"].tolist(), held["features"], strict=True))
                    path.touch()
        return self._known[key]

    def add(self, key: str, features: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep more features, on disk too: in a file of their own, so that no earlier one is written again."""
        self.read(key).update(features)
        if self.folder and features:
            name = content_hash("".join(features).encode())[:32]
            with atomic_file(self.folder / key / f"{name}.npz") as aside, aside.open("wb") as file:
                np.savez(file, photos=np.array(list(features)), features=np.stack(list(features.values())))
            self._make_room()

    def _make_room(self) -> None:
        """Delete the files that were read longest ago, but for the newest, until the folder keeps its limit."""
        facts = []
        for path in self.folder.glob("*/*.npz") if self.folder else ():
            with suppress(FileNotFoundError):
                about = path.stat()
                facts.append((about.st_mtime_ns, about.st_size, path))
        total = sum(size for _, size, _ in facts)
        for _, size, path in sorted(facts)[:-1]:
            if total <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def feature_key(model: Geolocator, preprocess: Preprocess) -> str:
    """Hash of all that a feature depends on besides the photo."""
    digest = hashlib.sha256(repr((preprocess, model.encoder.pooling, model.encoder.inner)).encode())
    if model.precision != "float32":
        digest.update(model.precision.encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def default_store() -> FeatureStore:
    """The store in the user's cache folder; ``GRATICULE_CACHE`` names another, ``GRATICULE_CACHE_GB`` its limit.

    Raises:
        BadRecipeError: the limit is no number of gigabytes.
    """
    limit = os.environ.get("GRATICULE_CACHE_GB", "10")
    try:
        limit_bytes = float(limit) * 1e9
    except ValueError as error:
        raise BadRecipeError(f"GRATICULE_CACHE_GB takes gigabytes, such as 10; found {limit!r}") from error
    return FeatureStore(cache_folder() / "features", limit_bytes)


@torch.inference_mode()
def encode(
    model: Geolocator,
    preprocess: Preprocess,
    photos: Sequence[Photo],
    *,
    workers: int | str = "auto",
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[NDArray[np.int64], Tensor, dict[int, BadPhotoError]]]:
    """Features of photos, batch by batch, in no particular order.

    Yields:
        ``(index, features, errors)``: which photos, their features ``(B, F)`` on the model's device, and the photos
        of this batch that could not be read. Every photo appears once, here or there.
    """
    device = next(model.parameters()).device
    batch_size = 128 if device.type == "cuda" else 4  # larger arrays only cost a CPU page faults
    todo = np.arange(len(photos))
    hashes: list[str] = []
    key = ""
    if store is not None:
        key = feature_key(model, preprocess)
        known = store.read(key)
        packed = measured(photos, "sha256")
        hashes = [_hash_or_nothing(photo) for photo in photos] if packed is None else packed.tolist()
        held = np.array([h in known for h in hashes], dtype=bool)
        if held.any():
            there = np.flatnonzero(held)
            for index in np.split(there, range(batch_size, len(there), batch_size)):  # as many as are computed at once
                yield index, torch.from_numpy(np.stack([known[hashes[i]] for i in index])).to(device), {}
        todo = np.flatnonzero(~held)
    if not len(todo):
        return
    wanted = [photos[int(i)] for i in todo]
    shapes, broken = shapes_of(wanted, preprocess)
    if broken:
        yield np.empty(0, np.int64), torch.empty(0), {int(todo[i]): e for i, e in broken.items()}
        keep = np.setdiff1d(np.arange(len(todo)), list(broken))
        todo, shapes, wanted = todo[keep], shapes[keep], [wanted[i] for i in keep]
    fresh: dict[str, NDArray[np.float32]] = {}
    dataset, workers = PhotoDataset(wanted, preprocess, keep_going=True), worker_count(len(wanted), workers)
    loader = Batches(dataset, ShapeBatches(shapes, batch_size, blocks=dataset.blocks(), workers=workers), workers)
    model.eval()
    done = 0
    for batch in loader:
        index = todo[batch["index"].numpy()]
        errors = {int(todo[i]): e for i, e in batch["errors"].items()}
        features = model.features(batch["images"].to(device)).float() if len(index) else torch.empty(0)
        if store is not None:
            fresh.update({hashes[i]: f for i, f in zip(index, features.cpu().numpy(), strict=True)})
            if len(fresh) >= KEEP:
                store.add(key, fresh)
                fresh = {}
        done += len(index) + len(errors)
        progress(done, len(todo), "photos")
        yield index, features, errors
    if store is not None:
        store.add(key, fresh)


def _hash_or_nothing(photo: Photo) -> str:
    try:
        return content_hash(read_bytes(photo))
    except BadPhotoError:
        return ""  # never in the store; the reason comes out when it is decoded
