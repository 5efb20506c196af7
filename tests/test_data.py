"""Photos to batches: every photo once whoever shares the work, and a stopped epoch that goes on."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from towns import make_town
from typer.testing import CliRunner

from graticule.cli import app
from graticule.errors import BadRecipeError, Note
from graticule.model.features import FeatureStore, default_store
from graticule.model.loading import POOL, Batches, FeatureDataset, PhotoDataset, ShapeBatches, shapes_of
from graticule.model.preprocess import Preprocess
from graticule.photos.images import content_hash
from graticule.photos.table import read_photos
from graticule.sources.pack import pack

FIT = Preprocess("fit", 32, 32, longest=48, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


def shapes_for(count, kinds, seed=0):
    side = np.random.default_rng(seed).integers(1, kinds + 1, count)
    return np.stack([16 * side, np.full(count, 32)], axis=1)


def lists_of(order, epoch):
    order.set_epoch(epoch)
    found = list(order)
    assert len(found) == len(order)
    return found


def real(order, epoch):
    """The lists of an epoch without what fills them up."""
    lists = lists_of(order, epoch)
    return [indices[:own] for indices, (own, _) in zip(lists, order.counts, strict=True)]


@pytest.mark.parametrize("group", [None, 1, 5, 64], ids=["files", "groups of 1", "groups of 5", "groups of 64"])
@pytest.mark.parametrize("drop_small", [False, True], ids=["all", "without batches of one"])
def test_each_photo_comes_once_an_epoch_over_all_ranks_and_workers(group, drop_small):
    sizes = itertools.product([0, 1, 17, 129], [1, 3], [1, 4, 16], [(1, 1), (3, 1), (2, 2)], [0, 2], [None, 7])
    for count, kinds, batch, (world, parts), workers, seed in sizes:
        shapes = shapes_for(count, kinds)
        blocks = None if group is None else np.arange(count) // group
        options = {"seed": seed, "drop_small": drop_small, "blocks": blocks, "workers": workers}
        shares = {"world": world, "parts": parts}
        by_rank = [real(ShapeBatches(shapes, batch, rank=rank, **shares, **options), 3) for rank in range(world)]
        assert len({len(lists) for lists in by_rank}) == 1  # no rank waits
        every = [indices for lists in by_rank for indices in lists]
        assert all(len({tuple(shapes[i]) for i in indices}) <= 1 and len(indices) <= batch for indices in every)
        photos = Counter(i for indices in every for i in indices)
        assert set(photos.values()) <= {1}
        by_shape = np.unique(shapes, axis=0, return_counts=True)[1]
        size = batch if group is None else max(1, batch // (world * parts))
        single = sum(int(n > size and n % size == 1) for n in by_shape) if drop_small else 0
        if world * parts == 1 or group is None:
            assert len(photos) == count - single
        else:
            lists = sum(-(-int(n) // size) for n in by_shape) - single
            assert len(every) == lists - lists % (world * parts)


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (1, 3), (3, 2)])
def test_a_step_of_several_processes_has_the_photos_of_a_step_of_one(world, parts):
    shapes = shapes_for(45, 3)
    [whole] = [lists_of(ShapeBatches(shapes, 8, seed=1, drop_small=True), 2)]
    ranks = [ShapeBatches(shapes, 8, seed=1, drop_small=True, rank=r, world=world, parts=parts) for r in range(world)]
    shared = [real(order, 2) for order in ranks]
    for step, photos in enumerate(whole):
        own = slice(step * parts, (step + 1) * parts)
        assert sorted(i for lists in shared for indices in lists[own] for i in indices) == sorted(photos)
        assert {of for order in ranks for _, of in order.counts[own]} == {len(photos)}
    assert min(len(indices) for order in ranks for indices in lists_of(order, 2)) == 2  # what batch normalisation needs


def test_what_one_epoch_leaves_out_for_the_ranks_comes_in_another():
    shapes, blocks = shapes_for(45, 1), np.arange(45) // 5  # 12 batches, so that 2 of them are left out
    orders = [ShapeBatches(shapes, 20, seed=1, blocks=blocks, rank=rank, world=5) for rank in range(5)]
    seen = [{i for order in orders for indices in lists_of(order, epoch) for i in indices} for epoch in range(6)]
    assert all(len(photos) < 45 for photos in seen)
    assert set.union(*seen) == set(range(45))


def test_each_worker_reads_its_own_row_groups():
    count, group, workers, world = 6400, 10, 3, 2
    blocks = np.arange(count) // group
    readers = {}
    for rank in range(world):
        order = ShapeBatches(shapes_for(count, 1), 32, seed=2, blocks=blocks, workers=workers, rank=rank, world=world)
        for number, indices in enumerate(lists_of(order, 0)):
            for block in set(blocks[indices].tolist()):
                readers.setdefault(block, set()).add((rank, number % workers))
    shared = sum(len(who) > 1 for who in readers.values())
    assert shared <= 0.1 * len(readers)  # those of the last pools, whose rests fill up common batches


def test_a_row_group_is_read_within_a_pool_and_a_batch_mixes_several():
    count, group = 6400, 10
    blocks = np.arange(count) // group
    order = ShapeBatches(shapes_for(count, 1), 16, seed=2, blocks=blocks)
    lists = lists_of(order, 0)
    at = {}
    for number, indices in enumerate(lists):
        for block in set(blocks[indices].tolist()):
            at.setdefault(block, []).append(number)
    assert np.median([max(numbers) - min(numbers) for numbers in at.values()]) <= POOL * group / 16 + 1
    assert np.mean([len(set(blocks[indices].tolist())) for indices in lists]) > 0.7 * POOL


def test_the_order_over_shards_is_new_each_epoch_and_the_same_each_time():
    blocks = np.arange(200) // 8

    def order(seed, epoch, workers=2):
        return lists_of(ShapeBatches(shapes_for(200, 2), 4, seed=seed, blocks=blocks, workers=workers), epoch)

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6)
    assert order(1, 5) != order(2, 5)
    assert sorted(map(sorted, order(1, 5))) != sorted(map(sorted, order(1, 6)))  # other batches, not only their order


def test_a_rank_that_is_none_is_refused():
    with pytest.raises(ValueError, match="ranks count from 0 to 1"):
        ShapeBatches(shapes_for(8, 1), 4, rank=2, world=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_same_tensors_as_their_files(town, tmp_path, workers):
    packed = read_photos(pack(town, tmp_path / "town", shard_mb=0.02))
    shapes, errors = shapes_of(packed.paths(), FIT)
    assert not errors
    dataset = PhotoDataset(packed.paths(), FIT)
    order = ShapeBatches(shapes, 8, seed=1, blocks=dataset.blocks(), workers=workers)
    files = [path.read_bytes() for path in town.paths()]
    expected = {content_hash(data): FIT(data) for data in files}
    seen = []
    for batch in Batches(dataset, order, workers):
        for index, image in zip(batch["index"].tolist(), batch["images"], strict=True):
            assert torch.equal(image, expected[packed.frame["sha256"][index]])
            seen.append(index)
    assert sorted(seen) == list(range(96))


def loader_of(count=53, workers=0, batch=4, blocks=True):
    features = torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 3) / count
    order = ShapeBatches(
        shapes_for(count, 2), batch, seed=5, blocks=np.arange(count) // 6 if blocks else None, workers=workers
    )
    return Batches(FeatureDataset(features, {"row": torch.arange(count) % 4}), order, workers)


def given(loader, epoch=None):
    if epoch is not None:
        loader.sampler.set_epoch(epoch)
    return [batch["index"].tolist() for batch in loader]


@pytest.mark.parametrize("blocks", [True, False], ids=["shards", "files"])
def test_a_loader_goes_on_behind_the_last_batch_that_training_got(blocks):
    whole = loader_of(blocks=blocks)
    first, second = given(whole, 3), given(whole, 4)
    stopped = loader_of(blocks=blocks)
    stopped.sampler.set_epoch(3)
    begun = list(itertools.islice(iter(stopped), 5))
    state = stopped.state_dict()
    resumed = loader_of(blocks=blocks)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.sampler.set_epoch(3)  # as Lightning does before the epoch goes on
    assert [batch["index"].tolist() for batch in begun] + given(resumed) == first
    assert given(resumed, 4) == second


def test_what_workers_read_ahead_is_not_counted_and_their_number_may_change():
    whole = given(loader_of(workers=2), 1)
    stopped = loader_of(workers=2)
    stopped.sampler.set_epoch(1)
    reading = iter(stopped)
    begun = [next(reading)["index"].tolist() for _ in range(3)]
    state = stopped.state_dict()
    del reading
    assert state == {"epoch": 1, "given": 3, "workers": 2, "world": 1}
    resumed = loader_of(workers=0)
    resumed.load_state_dict(state)
    assert begun + given(resumed) == whole


def test_a_finished_epoch_is_followed_by_the_next():
    loader = loader_of()
    given(loader, 2)
    resumed = loader_of()
    resumed.load_state_dict(loader.state_dict())
    assert given(resumed) == given(loader_of(), 3)


def test_a_state_of_other_ranks_is_refused():
    state = loader_of().state_dict() | {"world": 4}
    with pytest.raises(BadRecipeError, match="from 4 processes that trained together and there are 1 now"):
        loader_of().load_state_dict(state)


class Toy(lightning.LightningModule):
    def __init__(self, stop_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4))
        self.stop_at, self.seen = stop_at, []

    def training_step(self, batch, _):
        if self.global_step == self.stop_at:
            raise KeyboardInterrupt
        torch.manual_seed(self.global_step)
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return torch.nn.functional.cross_entropy(self.net(batch["features"]), batch["row"])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def fit(toy, folder, workers=0, resume=False):
    keep = ModelCheckpoint(folder, "last", every_n_train_steps=7, save_top_k=1, enable_version_counter=False)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=[keep], enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    path = folder / "last.ckpt" if resume else None
    try:
        trainer.fit(toy, loader_of(workers=workers), ckpt_path=path, weights_only=False)
    except (KeyboardInterrupt, SystemExit):
        assert toy.stop_at is not None
    return toy


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("stop_at", "workers"), [(8, 0), (30, 0), (23, 2)])
def test_lightning_goes_on_in_the_middle_of_an_epoch(tmp_path, stop_at, workers):
    """The checkpoint of every seventh step lies in the middle or at the end of an epoch of 14 steps."""
    whole = fit(Toy(), tmp_path / "whole", workers)
    fit(Toy(stop_at), tmp_path / "cut", workers)
    resumed = fit(Toy(), tmp_path / "cut", workers, resume=True)
    kept = stop_at // 7 * 7
    assert resumed.seen == whole.seen[kept:]
    for epoch in range(3):
        assert sorted(i for at, indices in whole.seen for i in indices if at == epoch) == list(range(53))
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_store_adds_features_without_writing_the_old_ones_again(tmp_path):
    store = FeatureStore(tmp_path)
    first = {"a": np.ones(3, np.float32), "b": np.zeros(3, np.float32)}
    store.add("key", first)
    [file] = tmp_path.rglob("*.safetensors")
    written = file.stat().st_mtime_ns
    store.add("key", {"c": np.full(3, 2, np.float32)})
    assert file.stat().st_mtime_ns == written
    again = FeatureStore(tmp_path).read("key")
    rows = again.find(["c", "a", "nothing", "b"])
    assert (rows >= 0).tolist() == [True, True, False, True]
    assert again.take(rows[rows >= 0])[:, 0].tolist() == [2, 1, 0]
    assert len(FeatureStore(tmp_path).read("other")) == 0


def test_photos_whose_names_begin_alike_are_told_apart():
    store, names = FeatureStore(), ["f" * 20 + last for last in "abc"]
    store.add("key", {name: np.full(2, i, np.float32) for i, name in enumerate(names[:2])})
    held = store.read("key")
    assert held.take(held.find(names)[:2])[:, 0].tolist() == [0, 1]
    assert held.find(names)[2] == -1


ADDING = """
import sys
from pathlib import Path
import numpy as np
from graticule.model.store import FeatureStore
store, who = FeatureStore(Path(sys.argv[1]), limit_bytes=40_000), int(sys.argv[2])
for i in range(60):
    name = f"{who * 1000 + i:064x}"
    store.add("key", {name: np.full(100, i, np.float32)})
    held = FeatureStore(Path(sys.argv[1])).read("key")
    rows = held.find([f"{w * 1000 + j:064x}" for w in (0, 1) for j in range(60)])
    wanted = np.tile(np.arange(60), 2)[rows >= 0]
    assert (held.take(rows[rows >= 0]) == wanted[:, None]).all()
"""


def test_two_processes_add_read_and_make_room_at_once(tmp_path):
    runs = [subprocess.Popen([sys.executable, "-c", ADDING, str(tmp_path), str(who)]) for who in (0, 1)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert 30_000 < sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 41_000


def test_a_cache_that_cannot_be_written_is_told_and_stops_no_work(tmp_path):
    (tmp_path / "file").touch()
    store = FeatureStore(tmp_path / "file/features")
    with pytest.warns(Note, match="cannot be written .* with GRATICULE_CACHE; features are kept in memory"):
        store.add("key", {"a" * 64: np.ones(3, np.float32)})
    store.add("key", {"b" * 64: np.ones(3, np.float32)})
    assert (store.read("key").find(["b" * 64, "c" * 64, "a" * 64]) >= 0).tolist() == [True, False, True]


def test_who_has_no_home_has_a_cache_all_the_same(monkeypatch):
    for name in ("HOME", "USERPROFILE", "GRATICULE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where the system knows no home either
    assert default_store().folder == Path(tempfile.gettempdir()) / "graticule/features"


def test_the_cache_is_shown_and_emptied(tmp_path, monkeypatch):
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path))
    default_store().add("key", {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)})
    runner = CliRunner()
    told = json.loads(runner.invoke(app, ["cache", "--json"]).output)
    assert (told["encoders"], told["features"], told["limit_bytes"]) == (1, 2, 10e9)
    assert told["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert "2 features of 1 encoders" in runner.invoke(app, ["cache", "--clear"]).output
    assert json.loads(runner.invoke(app, ["cache", "--json"]).output)["features"] == 0


def test_a_store_keeps_its_limit_and_forgets_what_was_read_longest_ago(tmp_path):
    def features(name):
        return {name: np.zeros(1000, np.float32)}

    for age, name in enumerate(["old", "read", "new"]):
        FeatureStore(tmp_path).add(name, features(name))
        [path] = (tmp_path / name).glob("*.safetensors")
        os.utime(path, (1000 + age, 1000 + age))
    assert len(FeatureStore(tmp_path).read("old")) == 1  # reading makes it the youngest
    FeatureStore(tmp_path, limit_bytes=3 * 5000).add("last", features("last"))
    assert sorted(path.parent.name for path in tmp_path.glob("*/*.safetensors")) == ["last", "new", "old"]


def test_the_limit_of_the_cache_is_a_number_of_gigabytes(monkeypatch, tmp_path):
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path))
    monkeypatch.setenv("GRATICULE_CACHE_GB", "0.5")
    assert default_store().limit_bytes == 5e8
    monkeypatch.setenv("GRATICULE_CACHE_GB", "plenty")
    with pytest.raises(BadRecipeError, match="GRATICULE_CACHE_GB takes gigabytes"):
        default_store()
