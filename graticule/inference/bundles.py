"""Where a bundle lies that somebody names: a folder, a public model that was fetched, or the hub. No torch."""

import re
from pathlib import Path

from graticule.files import fetched_folder
from graticule.model.index import CARD, CONFIDENCE, FILES, INDEX, THUMBNAILS, fetched

HUB_NAME = re.compile(r"(?!.*\.ya?ml$)(\w[\w.-]*/)?\w[\w.-]*(@[\w./-]+)?")  # user/name@revision


def find_bundle(bundle: Path | str) -> Path:
    """The folder of a bundle.

    Args:
        bundle: a path; the name of a public model that was fetched; or ``user/name`` of the hub, which is fetched once,
            with ``@`` and a revision after it where that shall stay the same.

    Raises:
        SourceError: it is none of these, and the hub has no such model or cannot be reached.
    """
    path = Path(bundle)
    if path.exists() or not HUB_NAME.fullmatch(str(bundle)) or (len(path.parts) == 2 and path.parent.exists()):
        return path
    if len(path.parts) == 1:
        return fetched_folder() / path if path.name in fetched() else path
    from graticule.sources.web.hub import hub_snapshot

    repo, _, revision = str(bundle).partition("@")
    return hub_snapshot(repo, (*FILES, *CONFIDENCE, THUMBNAILS, INDEX, CARD), revision=revision or None)
