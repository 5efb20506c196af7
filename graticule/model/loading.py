"""Photos to batches, for training and for questions alike."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from graticule.errors import BadPhotoError, BadRecipeError
from graticule.model.preprocess import Preprocess
from graticule.photos.images import inspect, read_file
from graticule.photos.shards import measured, row_groups

Photo = Path | bytes
Batch = dict[str, Any]
Progress = Callable[[int, int, str], None]
FEW = 64  # photos that are decoded faster than worker processes start
POOL = 8  # row groups that are mixed with each other; a reader holds twice as many, so that pools may overlap


def silent(done: int, total: int, note: str) -> None:
    """A progress callback for callers who do not watch."""


def read_bytes(photo: Photo) -> bytes:
    """The bytes of a photo given as a path or as bytes.

    Raises:
        BadPhotoError: as :func:`graticule.photos.images.read_file`.
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

    def blocks(self) -> NDArray[np.int64] | None:
        """Code of the row group that holds each photo, shape ``(N,)``; none where the photos are files."""
        return row_groups(self.photos)


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

    def blocks(self) -> None:
        """Features lie in memory: no order is better than another."""


class ShapeBatches(Sampler[list[int]]):
    """Lists of indices whose photos share one shape, so that they stack.

    A step of training takes ``batch_size`` photos, over all ranks and over the parts that one rank takes one after the
    other; each list is the share of one rank in one part. The order depends on the seed, the epoch and, for shards,
    ``workers``, ``world`` and ``parts`` alone, so a resumed run sees what an uninterrupted one would. Each rank gets
    equally many lists, so that none waits for another.

    Of files, each step has the photos that it has of one process, and every photo comes once an epoch but for what
    ``drop_small`` leaves out. A share that would be too small for batch normalisation is filled up with photos of the
    same step; :attr:`counts` says how many of each list count.

    Photos in shards are read a row group at a time, and at most ``world * parts - 1`` lists of an epoch are left out.
    Their order is mixed in two steps: the row groups, and then the photos of each pool of :data:`POOL` of them. A pool
    belongs to one worker of one rank, which so reads its row groups once; only the few batches left over at the ends
    (and photos of rare shapes) take from several pools.

    Args:
        shapes: height and width of each photo after resizing, shape ``(N, 2)``.
        seed: what the order is drawn with; none keeps the photos' own.
        drop_small: leave out a last batch of one, which batch normalisation cannot train on.
        blocks: code of the row group that holds each photo, shape ``(N,)``; none where each is a file of its own.
        workers: processes of the loader: it gives batch ``i`` to worker ``i % workers``.
        rank, world: which of how many processes that train together this order is for.
        parts: into how many lists a rank's share of a step is cut.

    Attributes:
        counts: for each list of the epoch, how many of its photos count, and how many the whole step has.
    """

    def __init__(
        self,
        shapes: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int | None = None,
        drop_small: bool = False,
        blocks: NDArray[np.int64] | None = None,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}: ranks count from 0 to {world - 1}")
        self.seed, self.epoch, self.drop_small = seed, 0, drop_small
        self.workers, self.rank, self.world, self.parts = max(1, workers), rank, world, parts
        self.counts: list[tuple[int, int]] = []
        # Files are dealt out a step at a time; of shards, each rank reads row groups of its own.
        self.batch_size = batch_size if blocks is None else max(1, batch_size // (world * parts))
        self.start = 0  # the first batch to give out: of an epoch that is resumed, some were
        _, code = np.unique(shapes, axis=0, return_inverse=True)
        self.codes = code.ravel()
        self.groups = _rows_by_code(self.codes)
        self.blocks = None if blocks is None else _rows_by_code(np.unique(blocks, return_inverse=True)[1])

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Lists of an epoch for one rank."""
        batches = sum(len(self._cut(group, len(group))) for group in self.groups)
        return self.parts * (batches if self.blocks is None else batches // (self.world * self.parts))

    def __iter__(self) -> Iterator[list[int]]:
        order = self._by_shape() if self.blocks is None else self._by_pool()
        sizes = np.array([[len(share) for share in shares] for shares in order], np.int64)
        steps = sizes.sum(axis=0).reshape(-1, self.parts).sum(axis=1).repeat(self.parts)
        self.counts = list(zip(sizes[self.rank].tolist(), steps.tolist(), strict=True))
        own = order[self.rank]
        if self.blocks is None and self.world * self.parts > 1:
            least = 2 if self.drop_small else 1
            first = (share for share in order[0][:: self.parts] for _ in range(self.parts))  # has a photo in any case
            own = [
                share if len(share) >= least else np.resize(share if len(share) else some, least)
                for share, some in zip(own, first, strict=True)
            ]
        return (share.tolist() for share in own[self.start :])

    def _mixer(self) -> Callable[[int], NDArray[np.int64]]:
        """Gives 0 to n - 1 in the order of this epoch."""
        return np.arange if self.seed is None else np.random.default_rng((self.seed, self.epoch)).permutation

    def _by_shape(self) -> list[list[NDArray[np.int64]]]:
        mix = self._mixer()
        chunks = [chunk for group in self.groups for chunk in self._cut(group[mix(len(group))], len(group))]
        mixed, shares = [chunks[i] for i in mix(len(chunks))], self.world * self.parts
        return [
            [chunk[rank + self.world * part :: shares] for chunk in mixed for part in range(self.parts)]
            for rank in range(self.world)
        ]

    def _by_pool(self) -> list[list[NDArray[np.int64]]]:
        mix = self._mixer()
        lanes, rest = self._lanes(self.blocks or [], mix)
        each = len(self)
        quotas = [len(range(worker, each, self.workers)) for _ in range(self.world) for worker in range(self.workers)]
        for lane, quota in zip(lanes, quotas, strict=True):
            rest += lane[quota:]
            del lane[quota:]
        rest = [rest[i] for i in mix(len(rest))]
        for lane, quota in zip(lanes, quotas, strict=True):
            # Spread over the epoch: its end would else be all rare shapes.
            there, extra = iter(lane[:]), set(mix(quota)[len(lane) :].tolist())
            lane[:] = [rest.pop() if i in extra else next(there) for i in range(quota)]
        return [
            [lanes[rank * self.workers + i % self.workers][i // self.workers] for i in range(each)]
            for rank in range(self.world)
        ]

    def _lanes(
        self, blocks: list[NDArray[np.int64]], mix: Callable[[int], NDArray[np.int64]]
    ) -> tuple[list[list[NDArray[np.int64]]], list[NDArray[np.int64]]]:
        """Full batches for each worker of each rank, and the batches of all that did not fill one."""
        count = self.world * self.workers
        pools = np.array_split(mix(len(blocks)), count * -(-len(blocks) // (POOL * count)) or 1)
        lanes: list[list[NDArray[np.int64]]] = []
        left: dict[int, list[NDArray[np.int64]]] = {}
        for number in range(count):
            lane: list[NDArray[np.int64]] = []
            waiting: dict[int, NDArray[np.int64]] = {}
            for pool in filter(len, pools[number::count]):
                photos = np.concatenate([blocks[block] for block in pool])
                photos = photos[mix(len(photos))]
                full: list[NDArray[np.int64]] = []
                for code in np.unique(self.codes[photos]).tolist():
                    held = np.concatenate([waiting.get(code, photos[:0]), photos[self.codes[photos] == code]])
                    end = len(held) // self.batch_size * self.batch_size
                    full += [held[i : i + self.batch_size] for i in range(0, end, self.batch_size)]
                    waiting[code] = held[end:]
                lane += [full[i] for i in mix(len(full))]
            lanes.append(lane)
            for code, held in waiting.items():
                left.setdefault(code, []).append(held)
        rest = [
            chunk
            for code, parts in sorted(left.items())
            for chunk in self._cut(np.concatenate(parts), len(self.groups[code]))
        ]
        return lanes, rest

    def _cut(self, photos: NDArray[np.int64], total: int) -> list[NDArray[np.int64]]:
        """Batches of photos of one shape, the last of the ``total`` photos that share it."""
        chunks = [photos[i : i + self.batch_size] for i in range(0, len(photos), self.batch_size)]
        if self.drop_small and total > self.batch_size and total % self.batch_size == 1:
            chunks.pop()
        return chunks


def _rows_by_code(codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each code 0, 1, ..., ascending."""
    ends = np.cumsum(np.bincount(codes))[:-1]
    return np.split(np.argsort(codes, kind="stable"), ends) if len(codes) else []


class Batches(DataLoader[Batch]):
    """A loader that hands out the dataset's own batches and can go on in the middle of an epoch.

    ``own`` of a batch is how many of its photos count, ``of`` how many the whole step has over all ranks and parts.

    Lightning keeps :meth:`state_dict` in its checkpoints. What the workers have read ahead does not count as given.
    """

    sampler: ShapeBatches

    def __init__(self, dataset: Dataset[Batch], order: ShapeBatches, workers: int, pin: bool = False) -> None:
        super().__init__(
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
        self.given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.given = self.sampler.start
        reading = super().__iter__()  # asks for the order, with workers twice
        self.sampler.start = 0
        for batch in reading:
            batch["own"], batch["of"] = self.sampler.counts[self.given]
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where training stands: the epoch, its batches given out, and what else their order depends on."""
        order = self.sampler
        return {"epoch": order.epoch, "given": self.given, "workers": order.workers, "world": order.world}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on behind the last batch given out. The order stays that of the first run's number of workers.

        Raises:
            BadRecipeError: another number of processes trained together.
        """
        order = self.sampler
        if state["world"] != order.world:
            raise BadRecipeError(
                f"the checkpoint is from {state['world']} processes that trained together and there are "
                f"{order.world} now, so the rest of its epoch cannot be shared out; resume with {state['world']}"
            )
        done = state["given"] >= len(order)
        order.workers, order.epoch = state["workers"], state["epoch"] + done
        order.start = self.given = 0 if done else state["given"]


def worker_count(photos: int, wanted: int | str = "auto", sharing: int = 1) -> int:
    """Processes to decode with: none for a few photos, else one a core less the network's own, at most eight.

    Args:
        sharing: how many processes that train together share the cores.
    """
    if wanted != "auto":
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if photos <= FEW else max(0, min(8, cores // sharing - 1))


def shapes_of(photos: Sequence[Photo], preprocess: Preprocess) -> tuple[NDArray[np.int64], dict[int, BadPhotoError]]:
    """Height and width of each photo after resizing, ``(N, 2)``, and the photos whose header cannot be read.

    The header is asked, not a table: one wrong size there would spoil a batch in the middle of a run. Only what
    was measured on packed bytes is believed, so that shards far away are not read twice.
    """
    shapes = np.zeros((len(photos), 2), np.int64)
    errors: dict[int, BadPhotoError] = {}
    if preprocess.resize != "fit":
        shapes[:] = preprocess.height, preprocess.width
        return shapes, errors
    height, width = measured(photos, "height"), measured(photos, "width")
    if height is not None and width is not None:
        sizes, which = np.unique(np.stack([height, width], axis=1), axis=0, return_inverse=True)
        return np.array([preprocess.shape_for(*size) for size in sizes.tolist()])[which.ravel()], errors
    for i, photo in enumerate(photos):
        try:
            facts = inspect(read_bytes(photo))
            shapes[i] = preprocess.shape_for(facts.height, facts.width)
        except BadPhotoError as error:
            errors[i] = error
    return shapes, errors
