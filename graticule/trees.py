"""A recipe's tree before it is checked: its file, the files that it names, what it borrows, what is set in it."""

import difflib
from pathlib import Path
from typing import Any

from graticule.errors import BadRecipeError
from graticule.files import fetched_folder


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def find_recipe(recipe: Path) -> Path:
    """The file of a recipe: a path, or the bare name of one that comes with the package, such as ``laptop``.

    Raises:
        BadRecipeError: there is none of that name.
    """
    ours = packaged_recipes()
    if recipe.is_file():
        return recipe
    if recipe.suffix in (".yaml", ".yml") or len(recipe.parts) > 1:
        if recipe.stem in ours:
            name = recipe.stem
            raise BadRecipeError(f"there is no file {recipe}; {name} comes with the package: name it {name}")
        return recipe
    if recipe.name not in ours:
        near = difflib.get_close_matches(recipe.name, ours, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(ours)}."
        raise BadRecipeError(f"no recipe is called {recipe.name!r}; {hint} Give one of them or a YAML file")
    return ours[recipe.name]


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


def set_value(tree: Any, names: list[str], value: Any) -> None:
    """Put a value into a tree of dicts and lists; a list's entries are named by their number, from 0."""
    for depth, name in enumerate(names):
        last = depth == len(names) - 1
        if isinstance(tree, list):
            if not name.isdigit() or int(name) >= len(tree):
                raise BadRecipeError(f"{'.'.join(names)} cannot be set: {names[depth - 1]} has {len(tree)} entries")
            key: Any = int(name)
        elif isinstance(tree, dict):
            key = name
        else:
            raise BadRecipeError(f"{'.'.join(names)} cannot be set: {names[depth - 1]} is a single value")
        if last:
            tree[key] = value
        else:
            if isinstance(tree, dict) and tree.get(key) is None:
                tree[key] = {}
            tree = tree[key]
