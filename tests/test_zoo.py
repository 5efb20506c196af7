"""Public models as bundles, from files with their names and layouts and random numbers.

Each was compared with its own code on weights of the true sizes too, outside the project: LOG.md has the figures.
"""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from public_weights import TINY, clip_embedding, clip_tokens, write_geoclip, write_osv5m, write_streetclip
from safetensors.torch import load_file, save_file
from test_bundle import Trap
from test_cli import graticule
from torch.nn import functional
from towns import photo

from graticule import zoo
from graticule.errors import BadWeightsError
from graticule.geo.sphere import from_vectors, great_circle_km
from graticule.geo.territory import read_territory
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.zoo.models import geoclip, osv5m, streetclip
from graticule.zoo.tensors import read_tensors
from graticule.zoo.texts import embed, text_tower


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(geoclip.TOWER, "options", TINY)


@pytest.fixture
def files(tmp_path, tiny):
    write_geoclip(tmp_path / "files")
    return tmp_path / "files"


def test_geoclips_logits_are_scale_times_cosine_of_its_two_embeddings(tmp_path, tiny):
    tower, mlp, locations, scale, places = write_geoclip(tmp_path)
    bundle = zoo.get("geoclip", tmp_path)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    hidden = functional.linear(clip_embedding(tower, pixels), mlp["0.weight"], mlp["0.bias"]).relu()
    image = functional.linear(hidden, mlp["2.weight"], mlp["2.bias"])
    place = torch.stack([torch.tensor(places[name], dtype=torch.float32) for name in ("LAT", "LON")], dim=1)
    expected = scale.exp() * functional.cosine_similarity(image[:, None], location_embedding(locations, place), dim=2)
    with torch.inference_mode():
        found = bundle.model.head(bundle.model.encoder(pixels)).logits
    # The finest waves turn a thousand times, so float32 in another order differs; its own code does not (LOG.md).
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert np.allclose(bundle.partition.lat, places["LAT"], atol=1e-5)


def location_embedding(state, degrees):
    """GeoCLIP's, with PROJ's Equal Earth written out anew: parametric latitude, and x and y of the unit sphere."""
    lat, lon = torch.deg2rad(degrees).unbind(1)
    t = torch.asin(3**0.5 / 2 * lat.sin())
    a = [1.340264, -0.081106, 0, 0.000893, 0.003796]
    x = 2 * 3**0.5 * lon * t.cos() / (3 * (a[0] + 3 * a[1] * t**2 + 7 * a[3] * t**6 + 9 * a[4] * t**8))
    y = a[0] * t + a[1] * t**3 + a[3] * t**7 + a[4] * t**9
    place = torch.stack([x, y], dim=1) * 66.50336 / 180
    total = 0
    for i in range(3):
        turns = 2 * torch.pi * place @ state[f"LocEnc{i}.capsule.0.b"].T
        h = torch.cat([turns.cos(), turns.sin()], dim=1)
        for layer in (1, 3, 5):
            weight, bias = (state[f"LocEnc{i}.capsule.{layer}.{name}"] for name in ("weight", "bias"))
            h = functional.linear(h, weight, bias).relu()
        total = total + functional.linear(h, state[f"LocEnc{i}.head.0.weight"], state[f"LocEnc{i}.head.0.bias"])
    return total


def test_the_gallery_of_an_area_is_what_lies_there_and_ten_thousand_places_more(files, monkeypatch):
    monkeypatch.setattr(geoclip, "DENSE", 50)
    whole, area = zoo.get("geoclip", files), read_territory("-60,-180,0,180")
    south = zoo.get("geoclip", files, within=area)
    own = whole.partition.lat < 0
    assert len(south.partition) == pytest.approx(50 + own.sum(), abs=10)
    assert south.partition.lat.max() < 0
    torch.testing.assert_close(south.model.head.places[: own.sum()], whole.model.head.places[own])
    assert south.facts["imported"]["what"].endswith("its places are those within -60,-180,0,180")
    with pytest.raises(BadWeightsError, match="leave --within out"):
        zoo.get("megaloc", files, within=area)


def test_refined_it_answers_the_best_point_around_its_likeliest_place_and_its_logits_stay(files, tmp_path):
    plain = zoo.get("geoclip", files)
    zoo.get("geoclip", files, refine=2).write(tmp_path / "bundle")
    bundle = Bundle.read(tmp_path / "bundle")
    head, photos = bundle.model.head, torch.randn(6, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        said = head(photos)
        torch.testing.assert_close(said.logits, plain.model.head(photos).logits, rtol=0, atol=0)
        lat, lon = from_vectors(said.position.numpy())
        unit = functional.normalize(head.layers(photos), dim=1) * head.scale
        refined = (head.locations.embed(lat, lon) * unit).sum(dim=1)
    assert (refined > said.logits.max(dim=1).values).all()
    best = said.logits.argmax(dim=1)
    off_km = great_circle_km(lat, lon, bundle.partition.lat[best], bundle.partition.lon[best])
    reach_km = head.reach_km[best].numpy()  # the first round's square, and a third of it around its best point
    assert (off_km < 2**0.5 * 4 / 3 * reach_km).all()
    assert bundle.recipe.answer == "regressed"
    with pytest.raises(BadWeightsError, match="leave --refine out"):
        zoo.get("megaloc", files, refine=1)


def test_a_public_model_is_a_bundle_that_answers_and_tells_its_licence(files, tmp_path, monkeypatch):
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path / "cache"))
    made = zoo.get("geoclip", files)
    made.write(tmp_path / "cache" / "models" / "geoclip")
    bundle = Bundle.read(tmp_path / "cache" / "models" / "geoclip")
    (tmp_path / "a.jpg").write_bytes(photo(0, np.random.default_rng(0)))
    fix = Locator(bundle).locate(tmp_path / "a.jpg")
    assert fix == Locator(made).locate(tmp_path / "a.jpg")
    assert (fix.lat, fix.lon) == (pytest.approx(fix.cells[0].lat), pytest.approx(fix.cells[0].lon))
    assert re.fullmatch(r"p\d{3}", fix.cells[0].token)
    about = bundle.facts["imported"]
    assert about["licence"] == "MIT"
    assert len(about["files"]) == 4
    told = graticule("card", tmp_path / "cache" / "models" / "geoclip")
    assert told.returncode == 0, told.stderr
    card = (tmp_path / "cache" / "models" / "geoclip" / "README.md").read_text()
    assert "license: mit" in card
    assert "Somebody else trained it" in card


def test_a_tower_of_timms_names_is_the_same_as_one_of_transformers_names(files):
    ours = zoo.get("geoclip", files).model
    body = {k.removeprefix("encoder.body."): v for k, v in ours.state_dict().items() if k.startswith("encoder.body.")}
    theirs = load_file(files / "model.safetensors")
    head = {"head.weight": theirs["visual_projection.weight"], "head.bias": torch.zeros(768)}
    save_file(body | head, files / "model.safetensors")
    again = zoo.get("geoclip", files).model
    for key, value in again.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


def test_a_file_of_half_precision_is_the_same_model_rounded(files):
    whole = zoo.get("geoclip", files).model.head.layers
    state = load_file(files / "model.safetensors")
    save_file({key: value.half() for key, value in state.items()}, files / "model.safetensors")
    half = zoo.get("geoclip", files).model.head.layers
    torch.testing.assert_close(half[0].weight, whole[0].weight, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s | {"vision_model.wings.weight": torch.zeros(1)}, "has a tensor 'vision_model.wings.weight'"),
        (lambda s: without(s, "vision_model.pre_layrnorm.bias"), "lacks 1 of its tensors, such as 'norm_pre.bias'"),
        (lambda s: without(s, "visual_projection.weight"), "has no projection"),
        (
            lambda s: s | {"vision_model.post_layernorm.bias": torch.zeros(5)},
            r"'norm.bias' has shape \(5,\), not \(32,\)",
        ),
    ],
    ids=["unknown", "missing", "no projection", "shape"],
)
def test_a_file_of_another_layout_is_refused_with_the_key_that_differs(files, spoil, said):
    save_file(spoil(load_file(files / "model.safetensors")), files / "model.safetensors")
    with pytest.raises(BadWeightsError, match=said):
        zoo.get("geoclip", files)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["geoclip/model/weights/location_encoder_weights.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_weights_that_would_run_code_are_refused_and_do_not_run(files, name, how):
    mark = files / "mark"
    (files / "model.safetensors").rename(files / "pytorch_model.bin")
    if how == "pickle":
        (files / name).write_bytes(pickle.dumps(Trap(mark)))
    else:
        torch.save({"a": torch.zeros(1), "b": Trap(mark)}, files / name)
    with pytest.raises(BadWeightsError, match="would run code if it were read; it was not"):
        zoo.get("geoclip", files)
    assert not mark.exists()


def test_a_file_that_is_cut_off_is_refused(files):
    whole = (files / "model.safetensors").read_bytes()
    (files / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadWeightsError, match="is no file of tensors, or is cut off"):
        zoo.get("geoclip", files)


def test_missing_and_ambiguous_files_are_said(files):
    with pytest.raises(BadWeightsError, match="there is no folder"):
        zoo.get("geoclip", files / "nowhere")
    (files / "b").mkdir()
    (files / "model.safetensors").rename(files / "b" / "model.safetensors")
    zoo.Files(files).find("model.safetensors")
    (files / "c").mkdir()
    (files / "c" / "model.safetensors").touch()
    with pytest.raises(BadWeightsError, match="holds 2 files model.safetensors"):
        zoo.get("geoclip", files)
    (files / "vit_large_patch14_clip_224.openai").mkdir()
    (files / "b" / "model.safetensors").rename(files / "vit_large_patch14_clip_224.openai" / "model.safetensors")
    assert len(zoo.get("geoclip", files).partition) == 300
    (files / "geoclip" / "model" / "weights" / "location_encoder_weights.pth").unlink()
    with pytest.raises(BadWeightsError, match="pip download --no-deps geoclip"):
        zoo.get("geoclip", files)


def test_the_commands_list_and_refuse_in_a_sentence(tmp_path):
    listed = graticule("models")
    assert "geoclip" in listed.stdout
    assert "MIT" in listed.stdout
    one = json.loads(graticule("models", "geoclip", "--json").stdout)[0]
    assert one["licence"] == "MIT"
    told = graticule("models", "geoclip").stdout
    assert "needs: pip install --no-deps geoclip" in told
    assert "a photo takes about" in told
    assert "no public model is called 'geo'" in graticule("get", "geo").stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    assert "is not empty" in graticule("get", "geoclip", "--out", tmp_path / "full").stderr
    assert "cannot be had" in graticule("get", "plonk", "--out", tmp_path / "x").stderr


def test_another_package_adds_a_model_without_touching_this_one(monkeypatch):
    class Point:
        @staticmethod
        def load():
            about = {"what": "w", "licence": "MIT", "gigabytes": 1, "trained_on": "t", "figures": "f", "source": "s"}
            return type("module", (), {"MODEL": zoo.PublicModel(name="theirs", **about)})

    monkeypatch.setattr(zoo.metadata, "entry_points", lambda group: [Point] if group == "graticule.models" else [])
    assert "theirs" in zoo.public_models()


def test_the_baseline_of_osv5m_answers_the_offset_within_its_likeliest_box(tmp_path, monkeypatch):
    monkeypatch.setitem(osv5m.TOWER, "options", osv5m.TOWER["options"] | TINY)
    state, tower, boxes = write_osv5m(tmp_path / "files")
    bundle = zoo.get("osv5m", tmp_path / "files")
    pixels = torch.randn(20, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    token = clip_tokens(tower, pixels, quick=False)[:, 0]
    logits, offsets = (perceptron(state, f"mid.{part}.", token) for part in ("classif", "reg"))
    with torch.inference_mode():
        found = bundle.model.head(bundle.model.encoder(pixels))
    torch.testing.assert_close(found.logits, logits, atol=1e-4, rtol=1e-4)
    best = logits.argmax(dim=1).numpy()
    turned = 1.2 * np.tanh(offsets.view(20, -1, 2)[range(20), best].numpy())
    lat, lon = from_vectors(found.position.numpy())
    for axis, value in (("lat", lat), ("lon", lon)):
        offset = turned[:, ("lat", "lon").index(axis)]
        mean, least, most = (np.array(boxes[name])[best] for name in (axis, f"min_{axis}", f"max_{axis}"))
        expected = mean + offset * np.where(offset > 0, most - mean, mean - least)
        np.testing.assert_allclose(value, expected, atol=1e-4)
    bundle.write(tmp_path / "bundle")
    (tmp_path / "a.jpg").write_bytes(photo(0, np.random.default_rng(0)))
    assert Locator(Bundle.read(tmp_path / "bundle")).locate(tmp_path / "a.jpg").expected_error_km > 0


def perceptron(state, prefix, x):
    def of(index, name):
        return state[f"{prefix}{index}.{name}"]

    x = functional.layer_norm(x, x.shape[1:], of(0, "weight"), of(0, "bias"))
    for index in (1, 4):
        x = functional.linear(x, of(index, "weight"), of(index, "bias"))
        x = functional.gelu(functional.group_norm(x, 4, of(index + 1, "weight"), of(index + 1, "bias")))
    return functional.linear(x, of(7, "weight"), of(7, "bias"))


def test_a_quadtree_of_other_columns_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(osv5m.TOWER, "options", osv5m.TOWER["options"] | TINY)
    write_osv5m(tmp_path / "files")
    table = tmp_path / "files" / "quadtree_10_1000.csv"
    table.write_text(table.read_text().replace("max_lon", "east"))
    with pytest.raises(BadWeightsError, match="has no column 'max_lon'"):
        zoo.get("osv5m", tmp_path / "files")


def test_streetclip_asks_for_countries_and_then_for_their_towns(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.setitem(streetclip.TOWER, "options", TINY)
    monkeypatch.setattr(streetclip, "TOWNS", 2)
    write_streetclip(tmp_path)
    with pytest.raises(BadWeightsError, match="forbids some uses: read it, and if you agree"):
        zoo.get("streetclip", tmp_path)
    bundle = zoo.get("streetclip", tmp_path, agreed="CC-BY-NC-4.0")
    head = bundle.model.head
    names = bundle.partition.names
    paris = next(i for i, name in enumerate(names) if name.startswith("Paris,"))
    assert names[paris].endswith("France")
    assert great_circle_km(48.86, 2.35, bundle.partition.lat[paris], bundle.partition.lon[paris]) < 10
    french = head.parent == head.parent[paris]
    assert names[int(french.nonzero()[0])] == names[paris]
    # A text is told apart whatever it is asked beside: what pads it is not seen.
    tower = text_tower(read_tensors(tmp_path / "pytorch_model.bin"), tmp_path)
    parisian = zoo.get("streetclip", tmp_path, agreed="CC-BY-NC-4.0", within=read_territory("48,2,49,3")).partition
    assert {name.rpartition(", ")[2] for name in parisian.names} == {"France"}
    alone = embed(tower, tmp_path / "tokenizer.json", ["Paris"])
    torch.testing.assert_close(alone[0], head.places[paris], atol=1e-5, rtol=1e-4)
    with torch.inference_mode():
        logits = head(torch.randn(2, bundle.model.encoder.num_features)).logits
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(2))
