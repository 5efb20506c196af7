"""Features of photos: computed in batches, and kept for encoders that do not change."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graticule.errors import BadPhotoError
from graticule.model.folding import folded
from graticule.model.geolocator import Geolocator
from graticule.model.loading import (
    Batch,
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
from graticule.model.store import FeatureStore as FeatureStore
from graticule.model.store import default_store as default_store
from graticule.photos.images import content_hash
from graticule.photos.shards import measured

CPU_BATCH = 4  # photos that a processor's network sees at once; larger arrays only cost it page faults
THREADS = 16  # that compute side by side; more would wait for Python
KEEP = 4096  # features that are written at once


def feature_key(model: Geolocator, preprocess: Preprocess) -> str:
    """Hash of all that a feature depends on besides the photo."""
    digest = hashlib.sha256(repr((preprocess, model.encoder.pooling, model.encoder.inner)).encode())
    if model.encoder.second_order:
        digest.update(repr((model.encoder.second_order, model.encoder.second_order_root)).encode())
        digest.update(b"halves" if model.encoder.second_order_halves else b"")
    if model.precision != "float32":
        digest.update(model.precision.encode())
    if model.runtime:
        digest.update(model.runtime[0].encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


@torch.inference_mode()
def encode(
    model: Geolocator,
    preprocess: Preprocess,
    photos: Sequence[Photo],
    *,
    workers: int | str = "auto",
    batch_size: int | None = None,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[NDArray[np.int64], Tensor, dict[int, BadPhotoError]]]:
    """Features of photos, batch by batch, in no particular order.

    Args:
        batch_size: photos that the network sees at once; by default what the device is fast with.

    Yields:
        ``(index, features, errors)``: which photos, their features ``(B, F)`` on the model's device, and the photos
        of this batch that could not be read. Every photo appears once, here or there.
    """
    device = next(model.parameters()).device
    batch_size = batch_size or (128 if device.type == "cuda" else CPU_BATCH)
    todo = np.arange(len(photos))
    hashes: list[str] = []
    key = ""
    if store is not None:
        key = feature_key(model, preprocess)
        known = store.read(key)
        packed = measured(photos, "sha256")
        hashes = [_hash_or_nothing(photo) for photo in photos] if packed is None else packed.tolist()
        rows = known.find(hashes)
        there = np.flatnonzero(rows >= 0)
        for index in np.split(there, range(batch_size, len(there), batch_size)) if len(there) else ():
            yield index, torch.from_numpy(known.take(rows[index])).to(device), {}  # as many as are computed at once
        todo = np.flatnonzero(rows < 0)
    if not len(todo):
        return
    wanted = [photos[int(i)] for i in todo]
    shapes, broken = shapes_of(wanted, preprocess)
    if broken:
        yield np.empty(0, np.int64), torch.empty(0), {int(todo[i]): e for i, e in broken.items()}
        keep = np.setdiff1d(np.arange(len(todo)), list(broken))
        todo, shapes, wanted = todo[keep], shapes[keep], [wanted[i] for i in keep]
    fresh: dict[str, NDArray[np.float32]] = {}
    dataset = PhotoDataset(wanted, preprocess, keep_going=True)
    model.eval()
    done, threads = 0, torch.get_num_threads()
    processes = worker_count(len(wanted), workers)
    if workers == "auto" and processes and threads > 1 and device.type == "cpu" and not model.runtime:
        order = ShapeBatches(shapes, batch_size, blocks=dataset.blocks())
        computed = _by_threads(model, dataset, order, threads)
    else:
        order = ShapeBatches(shapes, batch_size, blocks=dataset.blocks(), workers=processes)
        computed = ((batch, _features(model, batch)) for batch in Batches(dataset, order, processes))
    try:
        for batch, features in computed:
            index = todo[batch["index"].numpy()]
            errors = {int(todo[i]): e for i, e in batch["errors"].items()}
            if store is not None:
                fresh.update({hashes[i]: f for i, f in zip(index, features.cpu().numpy(), strict=True)})
                if len(fresh) >= KEEP:
                    store.add(key, fresh)
                    fresh = {}
            done += len(index) + len(errors)
            progress(done, len(todo), "photos")
            yield index, features, errors
    finally:  # also where the one who asks has had enough, or was stopped
        if store is not None:
            store.add(key, fresh)


def _features(model: Geolocator, batch: Batch) -> Tensor:
    """Features of the photos of a batch that could be read, on the model's device."""
    if not len(batch["index"]):
        return torch.empty(0)
    return model.features(batch["images"].to(next(model.parameters()).device)).float()


def _by_threads(
    model: Geolocator, dataset: PhotoDataset, order: Iterable[list[int]], threads: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Batches with their features, on a processor: each thread decodes and computes batches of its own on its cores.

    A network on one core wastes none of it waiting for the others, and no picture is sent from process to process. The
    last digits of a feature depend on the number of cores that worked on it.
    """
    quick = Geolocator(folded(model.encoder), model.head, tuple(model.mean.flatten()), tuple(model.std.flatten()))
    quick.precision = model.precision
    parts = min(threads, THREADS)

    def compute(indices: list[int]) -> tuple[Batch, Tensor]:
        with torch.inference_mode():  # which, as the number of cores, is a thread's own
            batch = dataset[indices]
            return batch, _features(quick, batch)

    ahead: deque[Future[tuple[Batch, Tensor]]] = deque()
    with ThreadPoolExecutor(parts, initializer=torch.set_num_threads, initargs=(threads // parts,)) as pool:
        try:
            for indices in order:
                ahead.append(pool.submit(compute, indices))
                if len(ahead) > 2 * parts:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()
            torch.set_num_threads(threads)  # MKL has one number for all threads


def _hash_or_nothing(photo: Photo) -> str:
    try:
        return content_hash(read_bytes(photo))
    except BadPhotoError:
        return ""  # never in the store; the reason comes out when it is decoded
