"""Photos to batches, for training and for questions alike; and a store of features that are computed once."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from graticule.errors import BadPhotoError
from graticule.files import atomic_file
from graticule.images import content_hash, inspect, read_file
from graticule.model.geolocator import Geolocator
from graticule.preprocess import Preprocess

Photo = Path | bytes
Batch = dict[str, Any]
Progress = Callable[[int, int, str], None]
FEW = 64  # photos that are decoded faster than worker processes start


def silent(done: int, total: int, note: str) -> None:
    """A progress callback for callers who do not watch."""


def read_bytes(photo: Photo) -> bytes:
    """The bytes of a photo given as a path or as bytes.

    Raises:
        BadPhotoError: as :func:`graticule.images.read_file`.
    """
    return photo if isinstance(photo, bytes) else read_file(photo)


class PhotoDataset(Dataset[Batch]):
    """Decodes whole batches: asked for a list of indices, it answers with stacked tensors.

    Args:
        photos: paths or bytes.
        extras: more tensors with one row a photo, handed out with the images under the same names.
        keep_going: put what cannot be read into the batch's ``errors`` instead of raising.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        preprocess: Preprocess,
        extras: Mapping[str, Tensor] | None = None,
        keep_going: bool = False,
    ) -> None:
        self.photos, self.preprocess = photos, preprocess
        self.extras = dict(extras or {})
        self.keep_going = keep_going

    def __getitem__(self, indices: list[int]) -> Batch:
        images, kept, errors = [], [], {}
        for index in indices:
            try:
                images.append(self.preprocess(read_bytes(self.photos[index])))
                kept.append(index)
            except BadPhotoError as error:
                if not self.keep_going:
                    photo = self.photos[index]
                    where = photo if isinstance(photo, Path) else f"photo {index}"
                    raise BadPhotoError(error.reason, f"{where}: {error}") from error
                errors[index] = error
        rows = torch.tensor(kept, dtype=torch.int64)
        batch: Batch = {"index": rows, "errors": errors, **{k: v[rows] for k, v in self.extras.items()}}
        if images:
            batch["images"] = torch.stack(images)
        return batch


class FeatureDataset(Dataset[Batch]):
    """Features computed before, in batches of the same form."""

    def __init__(self, features: Tensor, extras: Mapping[str, Tensor]) -> None:
        self.features, self.extras = features, dict(extras)

    def __getitem__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices, dtype=torch.int64)
        return {
            "index": rows,
            "features": self.features[rows],
            **{k: v[rows] for k, v in self.extras.items()},
        }


class ShapeBatches(Sampler[list[int]]):
    """Lists of indices whose photos share one shape, so that they stack.

    The order depends on the seed and the epoch alone, so a resumed run sees what an uninterrupted one would.

    Args:
        shapes: height and width of each photo after resizing, shape ``(N, 2)``.
        drop_small: leave out a last batch of one, which batch normalisation cannot train on.
    """

    def __init__(
        self,
        shapes: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int | None = None,
        drop_small: bool = False,
    ) -> None:
        self.batch_size, self.seed, self.epoch, self.drop_small = batch_size, seed, 0, drop_small
        _, code = np.unique(shapes, axis=0, return_inverse=True)
        self.groups = [np.flatnonzero(code.ravel() == value) for value in range(code.max(initial=-1) + 1)]

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(len(self._chunks(group)) for group in self.groups)

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            yield from (chunk.tolist() for group in self.groups for chunk in self._chunks(group))
            return
        rng = np.random.default_rng((self.seed, self.epoch))
        chunks = [chunk for group in self.groups for chunk in self._chunks(rng.permutation(group))]
        for i in rng.permutation(len(chunks)):
            yield chunks[i].tolist()

    def _chunks(self, group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        chunks = [group[i : i + self.batch_size] for i in range(0, len(group), self.batch_size)]
        if self.drop_small and len(chunks) > 1 and len(chunks[-1]) == 1:
            chunks.pop()
        return chunks


def batches(dataset: Dataset[Batch], order: ShapeBatches, workers: int, pin: bool = False) -> DataLoader[Batch]:
    """A loader that hands out the dataset's own batches in this order."""
    return DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        # Its own source of chance: the loader's draw for its workers must not shift the run's.
        generator=torch.Generator(),
    )


def worker_count(photos: int, wanted: int | str = "auto") -> int:
    """Processes to decode with: none for a few photos, else one a core less the network's own, at most eight."""
    if wanted != "auto":
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if photos <= FEW else min(8, cores - 1)


def shapes_of(photos: Sequence[Photo], preprocess: Preprocess) -> tuple[NDArray[np.int64], dict[int, BadPhotoError]]:
    """Height and width of each photo after resizing, ``(N, 2)``, and the photos whose header cannot be read.

    The header is asked, not a table: one wrong size there would spoil a batch in the middle of a run.
    """
    shapes = np.zeros((len(photos), 2), np.int64)
    errors: dict[int, BadPhotoError] = {}
    if preprocess.resize == "squash":
        shapes[:] = preprocess.height, preprocess.width
        return shapes, errors
    for i, photo in enumerate(photos):
        try:
            facts = inspect(read_bytes(photo))
            shapes[i] = preprocess.shape_for(facts.height, facts.width)
        except BadPhotoError as error:
            errors[i] = error
    return shapes, errors


class FeatureStore:
    """Features of photos on disk, by the photo's own bytes, for one encoder and one preprocessing.

    Args:
        folder: where the features of all encoders lie; none keeps them in memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, dict[str, NDArray[np.float32]]] = {}

    def read(self, key: str) -> dict[str, NDArray[np.float32]]:
        """Features by content hash for one encoder; empty where nothing is known."""
        if key not in self._known:
            self._known[key] = {}
            path = self._path(key)
            if path and path.exists():
                with np.load(path) as held:
                    self._known[key] = dict(zip(held["photos"].tolist(), held["features"], strict=True))
        return self._known[key]

    def add(self, key: str, features: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep more features, on disk too."""
        known = self.read(key)
        known.update(features)
        path = self._path(key)
        if path and features:
            with atomic_file(path) as aside, aside.open("wb") as file:
                np.savez(file, photos=np.array(list(known)), features=np.stack(list(known.values())))

    def _path(self, key: str) -> Path | None:
        return self.folder / f"{key}.npz" if self.folder else None


def feature_key(model: Geolocator, preprocess: Preprocess) -> str:
    """Hash of all that a feature depends on besides the photo."""
    digest = hashlib.sha256(repr((preprocess, model.encoder.pooling, model.encoder.inner)).encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def default_store() -> FeatureStore:
    """The store in the user's cache folder; ``GRATICULE_CACHE`` names another."""
    cache = os.environ.get("GRATICULE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "graticule"
    return FeatureStore(Path(cache).expanduser() / "features")


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
        hashes = [_hash_or_nothing(photo) for photo in photos]
        held = np.array([h in known for h in hashes], dtype=bool)
        if held.any():
            index = np.flatnonzero(held)
            matrix = torch.from_numpy(np.stack([known[hashes[i]] for i in index]))
            yield index, matrix.to(device), {}
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
    loader = batches(
        PhotoDataset(wanted, preprocess, keep_going=True),
        ShapeBatches(shapes, batch_size),
        worker_count(len(wanted), workers),
    )
    model.eval()
    done = 0
    for batch in loader:
        index = todo[batch["index"].numpy()]
        errors = {int(todo[i]): e for i, e in batch["errors"].items()}
        features = model.features(batch["images"].to(device)).float() if len(index) else torch.empty(0)
        if store is not None:
            fresh.update({hashes[i]: f for i, f in zip(index, features.cpu().numpy(), strict=True)})
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
