"""Files of public models with random numbers: the published names and layouts, as small as they may be."""

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

WIDTH, HEADS, DEPTH, SIDE, PATCH = 32, 4, 2, 224, 14
TINY = {"embed_dim": WIDTH, "num_heads": HEADS, "depth": DEPTH}  # of a timm transformer


def random(generator, *shape, scale=0.2):
    return torch.randn(shape, generator=generator) * scale


def clip_state(seed=0, projection=768, side=SIDE):
    """A tower of CLIP under transformers' names."""
    g = torch.Generator().manual_seed(seed)
    vision = "vision_model."
    state = {
        f"{vision}embeddings.class_embedding": random(g, WIDTH),
        f"{vision}embeddings.patch_embedding.weight": random(g, WIDTH, 3, PATCH, PATCH, scale=0.05),
        f"{vision}embeddings.position_embedding.weight": random(g, (side // PATCH) ** 2 + 1, WIDTH),
        "visual_projection.weight": random(g, projection, WIDTH),
        "logit_scale": torch.tensor(4.6),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        state |= {f"{vision}{norm}.weight": 1 + random(g, WIDTH), f"{vision}{norm}.bias": random(g, WIDTH)}
    for i in range(DEPTH):
        layer = f"{vision}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state[f"{layer}self_attn.{name}.weight"] = random(g, WIDTH, WIDTH)
            state[f"{layer}self_attn.{name}.bias"] = random(g, WIDTH)
        for name, out, into in (("fc1", 4 * WIDTH, WIDTH), ("fc2", WIDTH, 4 * WIDTH)):
            state[f"{layer}mlp.{name}.weight"], state[f"{layer}mlp.{name}.bias"] = random(g, out, into), random(g, out)
        for norm in ("layer_norm1", "layer_norm2"):
            state |= {f"{layer}{norm}.weight": 1 + random(g, WIDTH), f"{layer}{norm}.bias": random(g, WIDTH)}
    return state


@torch.no_grad()
def clip_tokens(state, pixels, quick=True):
    """What CLIP's tower makes of normalised pixels before its last norm, written out with torch's own attention."""
    get = {key.removeprefix("vision_model."): value for key, value in state.items()}.__getitem__

    def norm(x, name):
        return functional.layer_norm(x, (WIDTH,), get(f"{name}.weight"), get(f"{name}.bias"), 1e-5)

    patches = functional.conv2d(pixels, get("embeddings.patch_embedding.weight"), stride=PATCH).flatten(2).mT
    token = get("embeddings.class_embedding").expand(len(pixels), 1, -1)
    x = norm(torch.cat([token, patches], dim=1) + get("embeddings.position_embedding.weight"), "pre_layrnorm")
    for i in range(DEPTH):
        layer = f"encoder.layers.{i}."
        attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        parts = [f"{layer}self_attn.{part}_proj" for part in "qkv"]
        attention.in_proj_weight.data = torch.cat([get(f"{part}.weight") for part in parts])
        attention.in_proj_bias.data = torch.cat([get(f"{part}.bias") for part in parts])
        attention.out_proj.weight.data = get(f"{layer}self_attn.out_proj.weight")
        attention.out_proj.bias.data = get(f"{layer}self_attn.out_proj.bias")
        y = norm(x, f"{layer}layer_norm1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = functional.linear(
            norm(x, f"{layer}layer_norm2"), get(f"{layer}mlp.fc1.weight"), get(f"{layer}mlp.fc1.bias")
        )
        y = y * torch.sigmoid(1.702 * y) if quick else functional.gelu(y)
        x = x + functional.linear(y, get(f"{layer}mlp.fc2.weight"), get(f"{layer}mlp.fc2.bias"))
    return x


def clip_embedding(state, pixels):
    """CLIP's embedding of photos, ``(B, D)``."""
    token = clip_tokens(state, pixels)[:, 0]
    weight, bias = (state[f"vision_model.post_layernorm.{name}"] for name in ("weight", "bias"))
    return functional.layer_norm(token, (WIDTH,), weight, bias, 1e-5) @ state["visual_projection.weight"].T


def write_geoclip(folder, count=300, seed=0):
    """GeoCLIP's own package and a tower, in a folder; returns the tensors by file."""
    g = torch.Generator().manual_seed(seed)
    weights, gallery = folder / "geoclip" / "model" / "weights", folder / "geoclip" / "model" / "gps_gallery"
    weights.mkdir(parents=True)
    gallery.mkdir()
    rng = np.random.default_rng(seed)
    places = {"LAT": rng.uniform(-60, 70, count).round(6), "LON": rng.uniform(-180, 180, count).round(6)}
    pl.DataFrame(places).write_csv(gallery / "coordinates_100K.csv")
    locations = {}
    for i in range(3):
        locations[f"LocEnc{i}.capsule.0.b"] = random(g, 256, 2, scale=(1, 16, 256)[i])
        for layer, width in (("capsule.1", 512), ("capsule.3", 1024), ("capsule.5", 1024)):
            locations |= linear(g, f"LocEnc{i}.{layer}", width, 1024)
        locations |= linear(g, f"LocEnc{i}.head.0", 1024, 512)
    mlp = linear(g, "0", 768, 768) | linear(g, "2", 768, 512)
    scale = torch.tensor(3.6810)
    for name, value in (("location_encoder", locations), ("image_encoder_mlp", mlp), ("logit_scale", scale)):
        torch.save(value, weights / f"{name}_weights.pth")
    tower = clip_state(seed)
    save_file(tower, folder / "model.safetensors")
    return tower, mlp, locations, scale, places


def linear(generator, name, into, out):
    return {f"{name}.weight": random(generator, out, into, scale=into**-0.5), f"{name}.bias": random(generator, out)}


def write_osv5m(folder, count=12, seed=0):
    """The baseline of OSV-5M: each part twice, as its class holds it; returns its tensors and boxes."""
    g = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    south, west = rng.uniform(-60, 60, count), rng.uniform(-180, 170, count)
    boxes = {
        "cluster_id": range(count), "min_lat": south, "min_lon": west, "max_lat": south + 2, "max_lon": west + 5,
        "lat": south + rng.uniform(0.5, 1.5, count), "lon": west + rng.uniform(1, 4, count),
    }  # fmt: skip
    pl.DataFrame(boxes).write_csv(folder / "quadtree_10_1000.csv")
    state = {}
    for part, out in (("classif", count), ("reg", 2 * count)):
        own = {}
        for index, into, width in ((1, WIDTH, 1024), (4, 1024, 512), (7, 512, out)):
            own |= linear(g, f"{index}", into, width)
        for index, width in ((0, WIDTH), (2, 1024), (5, 512)):
            own |= {f"{index}.weight": 1 + random(g, width), f"{index}.bias": random(g, width)}
        state |= {f"mid.{part}.{key}": value for key, value in own.items()}
    tower = clip_state(seed)
    vision = {f"backbone.clip.{key}": value for key, value in tower.items() if key.startswith("vision_model.")}
    state |= vision
    torch.save(state | {f"model.{key}": value for key, value in state.items()}, folder / "pytorch_model.bin")
    return state, tower, boxes


def write_megaloc(folder, salad, seed=0, width=WIDTH):
    """MegaLoc's file, its position embeddings for 37 x 37 patches as published; ``salad`` is a module of the sizes."""
    g = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    state = {
        "backbone.cls_token": random(g, 1, 1, width),
        "backbone.pos_embed": random(g, 1, 37 * 37 + 1, width),
        "backbone.patch_embed.proj.weight": random(g, width, 3, PATCH, PATCH, scale=0.05),
        "backbone.patch_embed.proj.bias": random(g, width),
        "backbone.norm.weight": 1 + random(g, width),
        "backbone.norm.bias": random(g, width),
    }
    for i in range(DEPTH):
        block = f"backbone.blocks.{i}."
        for name, into, out in (
            ("attn.qkv", width, 3 * width), ("attn.proj", width, width),
            ("mlp.fc1", width, 4 * width), ("mlp.fc2", 4 * width, width),
        ):  # fmt: skip
            state |= linear(g, f"{block}{name}", into, out)
        for name in ("norm1", "norm2"):
            state |= {f"{block}{name}.weight": 1 + random(g, width), f"{block}{name}.bias": random(g, width)}
        state |= {f"{block}ls{k}.gamma": random(g, width) for k in (1, 2)}
    for key, value in salad.state_dict().items():
        part, _, rest = key.partition(".")
        number, _, what = rest.partition(".")
        tensor = random(g, *value.shape)
        if part in ("cluster_features", "score"):  # with dropout between, and convolutions of 1 x 1
            number = {"0": "0", "2": "3"}[number]
            tensor = tensor[..., None] if what == "weight" else tensor
        name = {"linear": "aggregator.linear"}.get(part, f"aggregator.agg.{part}")
        state[".".join(filter(None, [name, number, what]))] = tensor
    save_file(state, folder / "model.safetensors")
    return state


def write_streetclip(folder, seed=0):
    """A tower for names beside that for photos, and a tokenizer of letters; returns the tensors."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(seed)
    state, width = clip_state(seed, projection=48, side=336), 64
    words = ["[start]", "[end]", "[other]", *"abcdefghijklmnopqrstuvwxyz"]
    state |= {
        "text_model.embeddings.token_embedding.weight": random(g, len(words), width),
        "text_model.embeddings.position_embedding.weight": random(g, 77, width),
        "text_projection.weight": random(g, 48, width),
    }
    for i in range(DEPTH):
        layer = f"text_model.encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= linear(g, f"{layer}self_attn.{name}", width, width)
        state |= linear(g, f"{layer}mlp.fc1", width, 4 * width) | linear(g, f"{layer}mlp.fc2", 4 * width, width)
        for norm in ("layer_norm1", "layer_norm2"):
            state |= {f"{layer}{norm}.weight": 1 + random(g, width), f"{layer}{norm}.bias": random(g, width)}
    for name, value in (("weight", torch.ones(width)), ("bias", torch.zeros(width))):
        state[f"text_model.final_layer_norm.{name}"] = value
    torch.save(state, folder / "pytorch_model.bin")
    reader = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[other]"))
    reader.normalizer = normalizers.Lowercase()
    reader.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    reader.post_processor = processors.TemplateProcessing(
        single="[start] $A [end]", special_tokens=[("[start]", 0), ("[end]", 1)]
    )
    reader.save(str(folder / "tokenizer.json"))
    return state
