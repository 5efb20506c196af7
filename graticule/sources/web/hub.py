"""Files on the Hugging Face hub. ``huggingface_hub`` resumes, caches and finds the token by itself."""

import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from graticule.errors import SourceError
from graticule.files import explained, sha256_of

FETCHED = "fetched from the hub"
SHA256_DIGITS = 64  # of what the hub names a large file by
STREAM, SKIP = 4 * 2**20, 2**17  # bytes to read ahead where reading runs on, and where it skips: one photo


def hub_file(
    repo: str, name: str, *, revision: str | None = None, kind: Literal["dataset", "model"] = "dataset"
) -> Path:
    """Fetch one file of a repository, once; the path lies in the hub's own cache (``HF_HOME``).

    ``HF_ENDPOINT`` names another server, ``HF_TOKEN`` a token for what is not public.

    Raises:
        SourceError: there is no such file, it is not public, or the hub cannot be reached.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    with _refusing(f"{name} of the {kind} {repo}"):
        kept = try_to_load_from_cache(repo, name, cache_dir=constants.HF_HUB_CACHE, revision=revision, repo_type=kind)
        there = _answers()
        if there and not isinstance(kept, str):
            _fetch_bytes(repo, name, kind, revision)
        return Path(
            hf_hub_download(
                repo, name, repo_type=kind, revision=revision, endpoint=_endpoint(), local_files_only=not there
            )
        )


def _fetch_bytes(repo: str, name: str, kind: str, revision: str | None) -> None:
    """Put the bytes of a file into the hub's cache, going on where a run was stopped: its own client begins anew."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    url = hf_hub_url(repo, name, repo_type=kind, revision=revision, endpoint=_endpoint())
    facts = get_hf_file_metadata(url)
    if not facts.etag or not facts.size:
        return
    blob = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type=kind), "blobs", facts.etag)
    part = blob.with_name(f"{facts.etag}.part")
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(part.with_suffix(".lock")):
        if blob.exists():
            return
        part.touch()
        try:
            with part.open("r+b") as file:
                have = file.seek(0, os.SEEK_END)
                http_get(
                    url, file, resume_size=have, headers=build_hf_headers(), expected_size=facts.size,
                    displayed_filename=name,
                )  # fmt: skip
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink()
            raise
        if len(facts.etag) == SHA256_DIGITS and sha256_of(part) != facts.etag:
            part.unlink()
            raise SourceError(f"{name} of the {kind} {repo} came damaged, and was deleted; run the command again")
        part.replace(blob)


def hub_missing(repo: str, names: Sequence[str]) -> int:
    """Bytes of those files of a dataset repository that are not in the hub's cache yet; nothing of them is fetched.

    Raises:
        SourceError: as :func:`hub_file`.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    size = 0
    for name in names:
        kept = try_to_load_from_cache(repo, name, cache_dir=constants.HF_HUB_CACHE, repo_type="dataset")
        if not isinstance(kept, str):
            with _refusing(f"{name} of the dataset {repo}"):
                _ask_once()
                url = hf_hub_url(repo, name, repo_type="dataset", endpoint=_endpoint())
                size += get_hf_file_metadata(url).size or 0
    return size


def hub_snapshot(repo: str, names: Sequence[str], *, revision: str | None = None) -> Path:
    """Fetch these files of a model's repository, all of one commit, once; where there is no network the last ones.

    Raises:
        SourceError: as :func:`hub_file`.
    """
    from huggingface_hub import snapshot_download

    with _refusing(f"the model {repo}"):
        found = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(names),
            endpoint=_endpoint(),
            local_files_only=not _answers(),
        )
    return Path(found)


def hub_upload(repo: str, folder: Path, names: Sequence[str], *, private: bool) -> str:
    """Put these files of a folder into a model's repository, as one commit; it is made where there is none.

    Returns:
        The commit's address.

    Raises:
        SourceError: the token is missing or may not write there, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(_endpoint())
    with _refusing(f"the model {repo}", "put on the hub"):
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(names), commit_message="Bundle of Graticule"
        )
    return str(done.commit_url)


def hub_names(repo: str, *, revision: str | None = None) -> list[str]:
    """Names of all files of a dataset repository, sorted.

    Raises:
        SourceError: as :func:`hub_file`.
    """
    from huggingface_hub import HfApi

    with _refusing(f"the list of files of the dataset {repo}"):
        _ask_once()
        return sorted(HfApi(_endpoint()).list_repo_files(repo, repo_type="dataset", revision=revision))


def hub_open(repo: str, name: str, *, revision: str | None = None, read_ahead: int = STREAM) -> "RemoteFile":
    """Open one file of a dataset repository to read parts of it; nothing of it is kept on the disk.

    ``read_ahead``: bytes to fetch beyond what a read asks for.

    Raises:
        SourceError: as :func:`hub_file`, here and at every read.
    """
    from huggingface_hub import HfFileSystem

    what = f"{name} of the dataset {repo}"
    with _refusing(what):
        _ask_once()
        file = HfFileSystem(endpoint=_endpoint()).open(
            f"datasets/{repo}/{name}", "rb", revision=revision, cache_type="readahead"
        )
        return RemoteFile(file, what, read_ahead)


class RemoteFile(io.RawIOBase):
    """A file read by HTTP range, each a little ahead of what is asked; its failures are :class:`SourceError`."""

    def __init__(self, file: Any, what: str, read_ahead: int = STREAM) -> None:
        self._file, self._what = file, what
        self.read_ahead(read_ahead)

    def read_ahead(self, size: int) -> None:
        """Fetch so many bytes beyond what a read asks for: :data:`STREAM` or :data:`SKIP`."""
        self._file.blocksize = self._file.cache.blocksize = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1, /) -> bytes:
        with _refusing(self._what):
            return bytes(self._file.read(size))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _endpoint() -> str | None:
    """The server to ask: named at each call, since the library reads ``HF_ENDPOINT`` only when it is first imported."""
    return os.environ.get("HF_ENDPOINT")


def _ask_once() -> None:
    """Learn whether the hub answers at all: its own client tries for half a minute.

    Raises:
        OSError: it does not.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        urlopen(Request(_endpoint() or constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except HTTPError:
        return  # it answers


def _answers() -> bool:
    """Whether the hub is there; where it is not, what was fetched before is taken."""
    from huggingface_hub import constants

    try:
        _ask_once()
    except OSError:
        return False
    return not constants.HF_HUB_OFFLINE


@contextmanager
def _refusing(what: str, done: str = FETCHED) -> Iterator[None]:
    """Whatever the network or the hub raises becomes one sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and (told := explained(error, "what the hub sends (HF_HOME)")) is not error:
            raise told from error
        # The client's own network library changed its name twice; only some of its errors are OSErrors.
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        if isinstance(error, LocalEntryNotFoundError):
            raise SourceError(
                f"{what} could not be {done}, which does not answer; see that the network works, and run the command "
                f"again: what is there is not fetched twice"
            ) from error
        if isinstance(error, EntryNotFoundError) and done == FETCHED:
            raise SourceError(f"the hub has no {what}") from error
        rooms = {base.__module__.partition(".")[0] for base in type(error).__mro__}
        if not isinstance(error, OSError) and not rooms & {"huggingface_hub", "requests", "httpx", "httpx2"}:
            raise
        raise SourceError(
            f"{what} could not be {done} ({type(error).__name__}); see that the network works and, where "
            f"it asks for consent, that HF_TOKEN is set. Run the command again: what is there is not "
            f"fetched twice"
        ) from error
