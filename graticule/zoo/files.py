"""Where the files of a public model come from: a folder on this machine, or the Hugging Face hub."""

from pathlib import Path

from graticule.errors import BadWeightsError, SourceError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as transformers and timm name them, the better first


class Files:
    """Finds files by name, and remembers which were read. It needs no torch: what is missing shows before that loads.

    Args:
        folder: as ``hf download`` leaves it or with a folder for each repository, named as the repository is; a file
            may lie anywhere in it where only one has that name. None asks the hub.

    Attributes:
        read: the files that were asked for so far, each with where the hub had it, or none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.read: dict[Path, str | None] = {}

    def find(self, *names: str, repo: str | None = None, instead: str = "") -> Path:
        """The first of these files that is there.

        Args:
            names: of the file, the best first, such as ``model.safetensors``; folders may stand before it.
            repo: of the hub.
            instead: how else to come by it, for a file that no hub has.

        Raises:
            BadWeightsError: there is none, or there are several.
            SourceError: the hub has none, or cannot be reached.
        """
        path, where = self._in_folder(names, repo, instead) if self.folder else self._from_hub(names, repo, instead)
        self.read[path] = where
        return path

    def _in_folder(self, names: tuple[str, ...], repo: str | None, instead: str) -> tuple[Path, None]:
        folder = self.folder or Path()
        if not folder.is_dir():
            raise BadWeightsError(f"there is no folder {folder}; --from names one that holds the files of the model")
        own = folder / repo.rpartition("/")[2] if repo else folder
        for name in names:
            if (own / name).is_file():
                return own / name, None
            found = sorted(path for path in folder.rglob(name) if path.is_file())
            if len(found) > 1:
                raise BadWeightsError(
                    f"the folder {folder} holds {len(found)} files {name} ({found[0]}, {found[1]}); put the one of "
                    f"{repo or 'this model'} into {own}"
                )
            if found:
                return found[0], None
        wanted = f", of {repo} on the hub" if repo else ""
        raise BadWeightsError(
            f"the folder {folder} has no {' or '.join(names)}{wanted}{'; ' + instead if instead else ''}"
        )

    def _from_hub(self, names: tuple[str, ...], repo: str | None, instead: str) -> tuple[Path, str]:
        from graticule.sources.web.hub import hub_file

        if repo is None:
            raise BadWeightsError(f"no hub has {names[0]}; {instead}")
        try:
            path = hub_file(repo, names[0], kind="model")
        except SourceError as error:
            there = f"hf download {repo} --local-dir FOLDER"
            how = (
                f"There is another way: {instead}; put it beside what {there} fetches"
                if instead
                else f"Where there is no network: {there} elsewhere"
            )
            raise SourceError(f"{error}. {how}; then give that folder with --from") from error
        return path, f"{repo}/{names[0]} at {path.parent.name}"
