"""A recipe's tree before it is checked: where the files lie that it names, and what it borrows from a bundle."""

from pathlib import Path
from typing import Any

from graticule.errors import BadRecipeError
from graticule.files import fetched_folder


def locate_files(tree: Any, folder: Path) -> None:
    """Make the files of weights and the bundles that a tree names absolute; ``folder`` is where they are relative to.

    A name without folders that is not there is that of a public model that was fetched.
    """
    encoder = tree.get("encoder")
    for part in (encoder, encoder.get("then") if isinstance(encoder, dict) else None):
        for name in ("weights", "bundle"):
            if isinstance(part, dict) and part.get(name) not in (None, "pretrained", "package", "none"):
                named = Path(str(part[name])).expanduser()
                own = fetched_folder() / named
                public = name == "bundle" and not (folder / named).exists() and own.is_dir()
                part[name] = str((own if public else folder / named).resolve())


def with_bundles_encoder(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with ``encoder.bundle`` written out: what that bundle's own recipe says of encoder and image.

    Raises:
        BadRecipeError: there is no such bundle.
    """
    import yaml

    asked = tree.get("encoder")
    if not isinstance(asked, dict) or not asked.get("bundle"):
        return tree
    bundle = Path(asked["bundle"])
    try:
        theirs = yaml.safe_load((bundle / "recipe.yaml").read_text(encoding="utf-8"))
        encoder, image = dict(theirs["encoder"]), dict(theirs["image"])
    except (OSError, yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
        raise BadRecipeError(
            f"encoder.bundle: {bundle} is no bundle ({error}); graticule get and graticule train write one"
        ) from error
    own = {name: value for name, value in asked.items() if name != "bundle"}
    if fixed := sorted(own.keys() - {"frozen"}):
        raise BadRecipeError(f"encoder.bundle brings its own {', '.join(fixed)}; beside it only frozen can be said")
    encoder |= {"weights": str(bundle)} | own
    if encoder.get("then"):
        encoder["then"] = dict(encoder["then"]) | {"weights": str(bundle)}
        encoder["frozen"] = own.get("frozen", False)
    return tree | {"encoder": encoder, "image": image | (tree.get("image") or {})}
