"""The other half of ``python -m bench.peers``: the peer's own code, in its own environment; nothing of graticule."""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

PHOTOS = 2
CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


def write(state: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path)


def geoclip(folder: Path, pixels: torch.Tensor) -> dict:
    """Its package's real small weights and gallery, its tower as random as transformers makes it."""
    import geoclip as package

    model = package.GeoCLIP(clip_pretrained=False).eval()
    write(model.image_encoder.CLIP.state_dict(), folder / "vit_large_patch14_clip_224.openai" / "model.safetensors")
    shutil.copytree(Path(package.__file__).parent, folder / "geoclip")
    return {"said": model(pixels, model.gps_gallery)}


def streetclip(folder: Path, pixels: torch.Tensor) -> dict:
    """CLIP of transformers, asked for the names of countries, with a tokenizer of letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel

    words = ["[start]", "[end]", "[other]", *"abcdefghijklmnopqrstuvwxyz "]
    text = {"vocab_size": len(words), "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    text |= {"num_hidden_layers": 12, "bos_token_id": 0, "eos_token_id": 1, "projection_dim": 768}
    vision = CLIP_L | {"patch_size": 14, "image_size": 336, "projection_dim": 768}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)).eval()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    reader = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[other]"))
    reader.normalizer, reader.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Split("", "isolated")
    ends = [("[start]", 0), ("[end]", 1)]
    reader.post_processor = processors.TemplateProcessing(single="[start] $A [end]", special_tokens=ends)
    reader.save(str(folder / "tokenizer.json"))
    # As its forward does, but the photos are looked at once, not once for each name.
    said = [
        model.text_projection(model.text_model(input_ids=torch.tensor([reader.encode(name).ids])).pooler_output)
        for name in json.loads((folder / "names.json").read_text())
    ]
    texts = torch.nn.functional.normalize(torch.cat(said), dim=1)
    image = model(input_ids=torch.tensor([[0, 1]]), pixel_values=pixels).image_embeds
    return {"said": model.logit_scale.exp() * image @ texts.T}


def osv5m(folder: Path, pixels: torch.Tensor) -> dict:
    """The parts that its configuration names: CLIP's tower, MLPCentroid and HybridHeadCentroid on the real quadtree."""
    from models.networks.heads.hybrid import HybridHeadCentroid
    from models.networks.mlp import MLPCentroid
    from transformers import CLIPVisionConfig, CLIPVisionModel

    quadtree = Path(sys.argv[3]) / "utils" / "quadtree_10_1000.csv"
    shutil.copy(quadtree, folder)
    cells = len(quadtree.read_text().splitlines()) - 1
    # As DataComp's tower, which it begins from: transformers' own default is OpenAI's faster GELU.
    tower = CLIPVisionModel(CLIPVisionConfig(**CLIP_L, patch_size=14, image_size=224, hidden_act="gelu")).eval()
    middle = MLPCentroid(1024, [1024, 512], 3 * cells, torch.nn.GroupNorm, torch.nn.GELU).eval()
    for layer in middle.modules():  # of torch's own small numbers all logits are alike
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=2 / layer.in_features**0.5)
    head = HybridHeadCentroid(cells, str(quadtree), True, 1.2).eval()
    parts = {f"backbone.clip.{key}": value for key, value in tower.state_dict().items()}
    parts |= {f"mid.{key}": value for key, value in middle.state_dict().items()}
    write(parts | {f"model.{key}": value for key, value in parts.items()}, folder / "model.safetensors")
    said = head(middle(tower(pixel_values=pixels).last_hidden_state), None)
    return {"said": said["label"], "gps": said["gps"]}


def megaloc(folder: Path, pixels: torch.Tensor) -> dict:
    """Its own class, with layer scales and a dustbin that do something."""
    from megaloc_model import MegaLoc

    model = MegaLoc().eval()
    for name, value in model.named_parameters():
        if name.endswith(("gamma", "cls_token", "pos_embed")):
            torch.nn.init.normal_(value, std=0.2)
    write(model.state_dict(), folder / "model.safetensors")
    return {"said": model(pixels)}


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    sys.path.insert(0, sys.argv[3])
    torch.manual_seed(0)
    side = {"streetclip": 336, "megaloc": 322}.get(name, 224)
    pixels = torch.randn(PHOTOS, 3, side, side)
    with torch.no_grad():
        said = {"geoclip": geoclip, "streetclip": streetclip, "osv5m": osv5m, "megaloc": megaloc}[name](folder, pixels)
    write(said | {"pixels": pixels}, folder / "theirs.safetensors")
