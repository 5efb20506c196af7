"""CLIP's text tower: names of places to the embeddings that photos are compared with, once, at ``graticule get``.

Radford et al. (arXiv 2103.00020), section 2.4.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from graticule.errors import BadWeightsError
from graticule.zoo.tensors import Renames, fill, renamed

LENGTH = 77  # tokens at most
HEAD_WIDTH = 64
AT_ONCE = 256
_LAYER = r"text_model\.encoder\.layers\.(\d+)\."
_TEXT: Renames = (
    (r"text_model\.embeddings\.token_embedding\.weight", "words.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positions"),
    (_LAYER + r"self_attn\.([qkv])_proj\.(weight|bias)", r"tower.layers.\1.self_attn.\2_\3"),
    (_LAYER + r"self_attn\.out_proj\.(weight|bias)", r"tower.layers.\1.self_attn.out_proj.\2"),
    (_LAYER + r"layer_norm([12])\.(weight|bias)", r"tower.layers.\1.norm\2.\3"),
    (_LAYER + r"mlp\.fc([12])\.(weight|bias)", r"tower.layers.\1.linear\2.\3"),
    (r"text_model\.final_layer_norm\.(weight|bias)", r"tower.norm.\1"),
    (r"text_projection\.weight", "projection.weight"),
)
_OTHERS = (r"vision_model\..*", r"visual_projection\..*", r"logit_scale", r"text_model\.embeddings\.position_ids")


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's faster GELU."""
    return x * torch.sigmoid(1.702 * x)


class TextTower(nn.Module):
    """Tokens ``(B, T)`` and the place of each text's last one ``(B,)`` to embeddings ``(B, D)``."""

    def __init__(self, vocabulary: int, width: int, layers: int, embedding: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(LENGTH, width))
        layer = nn.TransformerEncoderLayer(
            width, width // HEAD_WIDTH, 4 * width, 0.0, quick_gelu, batch_first=True, norm_first=True
        )
        self.tower = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.projection = nn.Linear(width, embedding, bias=False)

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        count = tokens.shape[1]
        x = self.words(tokens) + self.positions[:count]
        x = self.tower(x, mask=nn.Transformer.generate_square_subsequent_mask(count), is_causal=True)
        found: Tensor = self.projection(x[torch.arange(len(x)), last])
        return found


def text_tower(state: Mapping[str, Tensor], path: Path) -> TextTower:
    """The tower of a file of transformers.

    Raises:
        BadWeightsError: a tensor is missing, is too many, or has another shape.
    """
    own = renamed(state, _TEXT, path, left_out=_OTHERS)
    for key in [key for key in own if ".self_attn.q_" in key]:
        parts = [key.replace(".q_", f".{part}_") for part in "qkv"]
        if all(part in own for part in parts):
            own[key.replace(".q_", ".in_proj_")] = torch.cat([own.pop(part) for part in parts])
    if "words.weight" not in own or "projection.weight" not in own:
        raise BadWeightsError(f"{path} has no text tower (text_model and text_projection)")
    (vocabulary, width), embedding = own["words.weight"].shape, own["projection.weight"].shape[0]
    layers = len([key for key in own if key.endswith(".norm1.weight")])
    tower = TextTower(vocabulary, width, layers, embedding)
    fill(tower, own, path)
    return tower.eval()


@torch.inference_mode()
def embed(tower: TextTower, tokenizer: Path, texts: Sequence[str]) -> Tensor:
    """Embeddings of unit length of N texts, shape ``(N, D)``.

    Args:
        tokenizer: the file ``tokenizer.json`` that came with the weights.

    Raises:
        BadWeightsError: the package that reads it is not installed, or it cannot be read.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise BadWeightsError(
            "names of places become tokens by the package tokenizers, which is not installed: "
            "pip install 'graticule[names]'"
        ) from error
    try:
        read = Tokenizer.from_file(str(tokenizer))
    except Exception as error:
        raise BadWeightsError(f"{tokenizer} is no tokenizer: {error}") from error
    read.no_padding()
    read.enable_truncation(LENGTH)
    ids = [found.ids for found in read.encode_batch(list(texts))]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # texts of a length together: little is padded
    out = []
    for start in range(0, len(ids), AT_ONCE):
        some = [ids[i] for i in order[start : start + AT_ONCE]]
        longest = max(map(len, some))
        # What follows the last token is not seen by those before it.
        tokens = torch.tensor([text + text[-1:] * (longest - len(text)) for text in some])
        last = torch.tensor([len(text) - 1 for text in some])
        out.append(functional.normalize(tower(tokens, last), dim=1))
    return torch.cat(out)[torch.tensor(order).argsort()]
