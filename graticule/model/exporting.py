"""The encoder of a bundle as an ONNX or OpenVINO model beside its weights, and running it.

All that is exported is photos to features, for any number and size of photos; the head, the belief and the answer stay
as they are. An exported model is used only where it was made from the bundle's own weights, and only where it gave the
bundle's own features, but for rounding, when it was made.
"""

import json
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graticule.choices import Precision, Runtime
from graticule.errors import BadRecipeError, BundleError
from graticule.files import atomic_folder, claimed, sha256_of, write_json
from graticule.model.bundle import Bundle
from graticule.model.geolocator import Geolocator
from graticule.model.index import WEIGHTS, read_index

EXPORTED, ABOUT = "exported", "about.json"
NAMES = {"onnx": "features.onnx", "openvino": "features.xml"}
OPSET = 17
SAME = 1e-3  # of a feature vector's length, in float32
Features = Callable[[Tensor], Tensor]


class _Features(nn.Module):
    def __init__(self, model: Geolocator) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.features(images.float() / 255)  # ONNX would divide whole numbers as whole numbers


def export(path: Path, to: Runtime) -> Path:
    """Write ``exported/TO`` into a bundle's folder; the folder's own files stay as they are.

    Returns:
        The folder written.

    Raises:
        BundleError: there is no whole bundle, or the exported model does not give its features.
        WriteError: another command exports it at this moment.
        BadRecipeError: the package of the runtime is not installed, or it cannot run this encoder.
    """
    bundle = Bundle.read(path)
    _package(to)
    out = path / EXPORTED / to
    with claimed(out.parent), atomic_folder(out) as aside:
        whole = aside / NAMES["onnx"]
        _to_onnx(bundle, whole)
        if to == "openvino":
            openvino = _package("openvino")
            openvino.save_model(openvino.convert_model(whole), aside / NAMES["openvino"], compress_to_fp16=False)
            whole.unlink()
        files = {file.name: sha256_of(file) for file in sorted(aside.iterdir())}
        _check(bundle, aside, to)
        about = {"weights": read_index(path)["sha256"][WEIGHTS], "sha256": files}
        write_json(aside / ABOUT, about)
    return out


def open_runtime(bundle: Bundle, to: Runtime, precision: Precision = "float32") -> Features:
    """What computes features of uint8 images ``(B, 3, H, W)`` in place of the network, on this machine's processor.

    Raises:
        BundleError: nothing was exported, or not from these weights, or a byte has changed.
        BadRecipeError: the package of the runtime is not installed, or it has no such arithmetic.
    """
    if bundle.path is None:
        raise BundleError("a bundle that lies in no folder has no exported model; write it first")
    path = bundle.path
    folder = path / EXPORTED / to
    how = f"graticule export {path} --to {to}"
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        fits = about["weights"] == read_index(path)["sha256"][WEIGHTS]
        whole = all(sha256_of(folder / name) == digest for name, digest in about["sha256"].items())
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise BundleError(f"the bundle {path} has no model for {to}; write it once with {how}") from error
    if not (fits and whole):
        raise BundleError(f"{folder} was not exported from the weights of {path}, or has changed; write it anew: {how}")
    return _open(folder, to, precision)


def _open(folder: Path, to: Runtime, precision: Precision) -> Features:
    package, threads = _package(to), torch.get_num_threads()
    if to == "onnx":
        if precision != "float32":
            raise BadRecipeError(f"--runtime onnx computes in float32; for {precision} use --runtime openvino")
        options = package.SessionOptions()
        options.intra_op_num_threads = threads
        session = package.InferenceSession(folder / NAMES[to], options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.cpu().numpy()})[0])
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = package.Core().compile_model(folder / NAMES[to], "CPU", settings)
    return lambda images: torch.from_numpy(np.array(compiled(images.cpu().numpy())[0]))


def _to_onnx(bundle: Bundle, out: Path) -> None:
    _package("onnx")
    height, width = bundle.preprocess.shape_for(768, 1024)
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    sides = {} if bundle.preprocess.resize == "squash" else {2: "height", 3: "width"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's advice is for who wrote the network
            torch.onnx.export(
                _Features(bundle.model).eval(),
                (images,),
                str(out),
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["features"],
                dynamic_axes={"images": {0: "photos"} | sides, "features": {0: "photos"}},
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise BadRecipeError(
            f"{bundle.recipe.encoder.name} cannot be exported: {str(error).splitlines()[0]}; use it without --runtime"
        ) from error


def _check(bundle: Bundle, folder: Path, to: Runtime) -> None:
    """Compare with the network itself, for one photo and several, high and wide."""
    run, chance = _open(folder, to, "float32"), torch.Generator().manual_seed(0)
    for count, size in ((1, (768, 1024)), (3, (1024, 576))):
        shape = bundle.preprocess.shape_for(*size)
        images = torch.randint(0, 256, (count, 3, *shape), generator=chance, dtype=torch.uint8)
        with torch.inference_mode():
            own = bundle.model.features(images)
        apart = float((run(images) - own).norm() / own.norm())
        if not apart < SAME:
            raise BundleError(
                f"the model exported for {to} gives features that differ by {apart:.1%} from the bundle's own, so it "
                f"was not kept; use the bundle without --runtime"
            )


def _package(to: Runtime) -> Any:
    """The package that runs models; exporting needs ``onnx``, too."""
    names = ("onnx", "onnxruntime") if to == "onnx" else ("onnx", "openvino")
    try:
        return [import_module(name) for name in names][-1]
    except ModuleNotFoundError as error:
        raise BadRecipeError(f"--runtime {to} needs another package: pip install 'graticule[{to}]'") from error
