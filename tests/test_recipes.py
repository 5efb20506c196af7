"""The recipes of the two reports, small enough for a test: trained, stopped, resumed and measured by command."""

import json
import shutil
from contextlib import contextmanager

import polars as pl
import pytest
import timm
import torch
import torchvision
from test_cli import RECIPES, graticule
from towns import make_town, tiny_recipe

from graticule.config import parse_overrides, parse_recipe, read_recipe
from graticule.errors import BadRecipeError
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator
from graticule.training.checkpoints import Checkpoints
from graticule.training.fit import fit
from graticule.training.train import train

SMALL = (
    "cells.split_above=30", "cells.drop_below=5", "split.val=0.17", "split.test=0.17", "image.height=32",
    "image.width=32", "train.batch_size=16", "train.precision=float32", "train.workers=0",
)  # fmt: skip
STAGES = tuple(f"train.stages.{i}.epochs=1" for i in range(3))
TINY = {
    "washington-dc": (*SMALL, "encoder.weights=none", "encoder.name=test_resnet", "train.epochs=3"),
    "geovit": (
        *SMALL, "encoder.weights=none", "encoder.name=test_resnet", "encoder.then.vit=test_vit",
        "encoder.then.grid=2", *STAGES,
    ),
    "geoknowr": (
        *SMALL[2:], "cells.clusters=4", "split.by=sequence", "encoder.name=test_resnet", "encoder.weights=net.pth",
        *STAGES,
    ),
}  # fmt: skip
APPENDIX_B = {
    "vit_b_16": "IMAGENET1K_V1", "vit_l_16": "IMAGENET1K_V1", "vit_b_32": "IMAGENET1K_V1", "vit_l_32": "IMAGENET1K_V1",
    "resnet50": "IMAGENET1K_V2", "convnext_base": "IMAGENET1K_V1", "convnext_large": "IMAGENET1K_V1",
}  # fmt: skip


class KilledError(Exception):
    pass


@contextmanager
def killed_at(monkeypatch, step):
    """A run within ends as soon as the checkpoint of this step is written."""
    write = Checkpoints._write

    def write_and_die(self, trainer):
        write(self, trainer)
        if trainer.global_step >= step:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_write", write_and_die)
        try:
            yield
        except KilledError:
            return
    pytest.fail(f"the run came to its end before step {step}")


def same_weights(one, two):
    one, two = one.model.state_dict(), two.model.state_dict()
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.mark.parametrize("name", TINY)
def test_a_reports_recipe_trains_resumes_and_is_measured_by_command(town, tmp_path, monkeypatch, name):
    sets = [part for pair in TINY[name] for part in ("--set", pair)]
    recipe = shutil.copy(RECIPES / f"{name}.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)  # where weights that an option names lie
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "net.pth")  # weights for what is frozen

    def command(out, *more):
        return ["train", recipe, "--photos", town.root / "table.csv", "--out", tmp_path / out, *sets, *more]

    done = graticule(*command("whole"))
    assert done.returncode == 0, done.stderr
    with killed_at(monkeypatch, 8):
        graticule(*command("killed"))
    assert not (tmp_path / "killed/bundle.json").exists()
    assert graticule(*command("killed", "--resume")).returncode == 0
    assert same_weights(Bundle.read(tmp_path / "whole"), Bundle.read(tmp_path / "killed"))
    assert pl.read_csv(tmp_path / "killed/training/history.csv")["epoch"].to_list() == [1, 2, 3]
    evaluated = graticule("evaluate", tmp_path / "killed", town.root / "table.csv", "--json")
    metrics = json.loads(evaluated.stdout)
    assert metrics["answer"] == "center"
    assert metrics["center_distance_km"] is not None
    assert metrics["audit"]["shared_sequences"] == 0
    shown = tmp_path / "shown"
    asked = ("explain", tmp_path / "killed", town.paths()[0], "--out", shown, "--no-score")
    assert graticule(*asked, "--method", "saliency", "--method", "map").returncode == 0
    assert {path.name for path in shown.glob("*.png")} == {"000-saliency.png", "000-map.png"}
    if name == "washington-dc":  # the page is the same of all three
        assert graticule("report", tmp_path / "killed", "--photos", town.root / "table.csv").returncode == 0
        page = (tmp_path / "killed/report.html").read_text()
        assert page.count("data:image/png") >= 5


@pytest.mark.parametrize("kind", ["position", "both"])
def test_regression_goes_the_whole_way_by_command(town, tmp_path, kind):
    sets = [*TINY["washington-dc"], f"head.kind={kind}", "answer=regressed"]
    sets += ["target={}"] if kind == "position" else ["target.alpha=5"]
    arguments = [part for pair in sets for part in ("--set", pair)]
    table, out = town.root / "table.csv", tmp_path / "bundle"
    done = graticule("train", RECIPES / "washington-dc.yaml", "--photos", table, "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    evaluated = graticule("evaluate", out, table)
    assert "regressed position, mean" in evaluated.stdout
    assert ("top-1 cell" in evaluated.stdout) == (kind == "both")
    for format in ("table", "csv", "kml"):
        assert graticule("predict", out, town.paths()[0], "--format", format).returncode == 0
    if kind == "position":  # a report without cells
        assert graticule("report", out).returncode == 0


@pytest.mark.parametrize("name", APPENDIX_B)
def test_pretrained_means_the_weights_of_the_reports_appendix(name):
    assert torchvision.models.get_model_weights(name).DEFAULT.name == APPENDIX_B[name]
    recipe = read_recipe(RECIPES / "washington-dc.yaml", parse_overrides([f"encoder.name=torchvision/{name}"]))
    assert (recipe.encoder.name, recipe.encoder.weights) == (f"torchvision/{name}", "pretrained")


def test_what_the_comments_of_a_recipe_offer_is_read():
    for name in TINY:
        text = (RECIPES / f"{name}.yaml").read_text()
        offered = [line.split("--set ")[1:] for line in text.splitlines() if "--set" in line]
        for sets in offered:
            pairs = [part.split()[0] for part in sets]
            if "target.kind=one_cell" in pairs or "target.alpha=5" in pairs:
                pairs += ["head.kind=both"] if "target.alpha=5" in pairs else []
            read_recipe(RECIPES / f"{name}.yaml", parse_overrides(pairs))


def test_three_stages_hold_still_what_they_freeze(town):
    stages = [{"epochs": 1, "freeze": ["encoder"]}, {"epochs": 1}, {"epochs": 1, "freeze": ["head"]}]

    def state_after(count):
        train = {"stages": stages[:count], "epochs": count, "schedule": "constant", "warmup": 0}
        return fit(tiny_recipe(train=train), town).model.state_dict()

    one, two, three = map(state_after, (1, 2, 3))
    start = build_geolocator(tiny_recipe(), 4).state_dict()
    assert all(torch.equal(one[n], start[n]) for n in one if n.startswith("encoder."))
    assert not torch.equal(one["encoder.body.conv_stem.weight"], two["encoder.body.conv_stem.weight"])
    assert all(torch.equal(two[n], three[n]) for n in two if n.startswith("head."))
    assert not torch.equal(one["head.cells.weight"], two["head.cells.weight"])


@pytest.mark.parametrize("step", [2, 7, 11])
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_weights(town, tmp_path, monkeypatch, step):
    stages = [{"epochs": 1, "freeze": ["encoder"]}, {"epochs": 2, "freeze": ["encoder[:-2]"]}]
    recipe = tiny_recipe(
        train={"stages": stages, "epochs": 3, "checkpoint_minutes": 1e-9, "schedule": "onecycle"},
        head={"dropout": 0.2},
        augment={"crop": 0.2},
    )
    whole = train(recipe, town, tmp_path / "whole")
    with killed_at(monkeypatch, step):
        train(recipe, town, tmp_path / "killed")
    resumed = train(recipe, town, tmp_path / "killed", resume=True)
    assert same_weights(whole, resumed)
    same = ("epoch", "stage", "train_loss", "val_loss", "lr")
    tables = [pl.read_csv(tmp_path / run / "training/history.csv").select(same) for run in ("whole", "killed")]
    assert tables[0].equals(tables[1])


def test_a_share_of_the_photos_is_of_every_cell_and_leaves_the_cells_as_they_are(town):
    whole, quarter = (fit(tiny_recipe(train={"epochs": 1, "share": share}), town) for share in (1, 0.25))
    assert quarter.facts["photos"] == len(town) / 4
    assert quarter.partition.photos.tolist() == whole.partition.photos.tolist()


def test_adam_and_adamw_part_ways_on_weight_decay(town):
    def weights(optimizer):
        recipe = tiny_recipe(train={"epochs": 1, "optimizer": optimizer, "weight_decay": 0.5, "lr": 1e-3})
        return fit(recipe, town).model.head.cells.weight

    assert not torch.equal(weights("adam"), weights("adamw"))
    assert torch.equal(weights("adam"), weights("adam"))


@pytest.mark.parametrize(
    ("train_", "sentence"),
    [
        ({"stages": [{"epochs": 3}], "epochs": 5}, "the stages make 3 epochs and epochs says 5"),
        (
            {"stages": [{"epochs": 1, "freze": []}]},
            "unknown setting train.stages.0.freze; did you mean train.stages.0.freeze",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(train_, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        parse_recipe({"train": train_})


def test_a_stage_that_freezes_all_is_refused(town):
    with pytest.raises(BadRecipeError, match="leaves nothing to train"):
        fit(tiny_recipe(train={"stages": [{"epochs": 1, "freeze": ["encoder", "head"]}], "epochs": 1}), town)


def test_an_entry_that_a_list_lacks_cannot_be_set(tmp_path):
    (tmp_path / "r.yaml").write_text("train: {stages: [{epochs: 1}]}\n")
    with pytest.raises(BadRecipeError, match="stages has 1 entries"):
        read_recipe(tmp_path / "r.yaml", {"train.stages.1.epochs": 2})
