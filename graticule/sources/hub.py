"""Files of datasets on the Hugging Face hub. ``huggingface_hub`` resumes, caches and finds the token by itself."""

import os
from pathlib import Path

from graticule.errors import SourceError


def hub_file(repo: str, name: str, *, revision: str | None = None) -> Path:
    """Fetch one file of a dataset repository, once; the path lies in the hub's own cache (``HF_HOME``).

    ``HF_ENDPOINT`` names another server, ``HF_TOKEN`` a token for what is not public.

    Raises:
        SourceError: there is no such file, it is not public, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        # named here, since the library reads HF_ENDPOINT only once, when something first imports it
        endpoint = os.environ.get("HF_ENDPOINT")
        return Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision, endpoint=endpoint))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _refusal(f"{name} of the dataset {repo}", error) from error


def hub_names(repo: str, *, revision: str | None = None) -> list[str]:
    """Names of all files of a dataset repository, sorted.

    Raises:
        SourceError: as :func:`hub_file`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return sorted(
            HfApi(os.environ.get("HF_ENDPOINT")).list_repo_files(repo, repo_type="dataset", revision=revision)
        )
    except (HfHubHTTPError, OSError) as error:
        raise _refusal(f"the list of files of the dataset {repo}", error) from error


def _refusal(what: str, error: Exception) -> SourceError:
    return SourceError(
        f"{what} could not be had from the hub ({type(error).__name__}); see that the network works and, where the "
        f"dataset asks for consent, that HF_TOKEN is set. Run the command again: what is there is not fetched twice"
    )
