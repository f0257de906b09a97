"""Read and write repositories of the Hugging Face Hub, with huggingface_hub, which the extra `hub` installs.

    folder = download("hf://ORG/NAME@v1", "model")  # the library's cache, also without network
    target = find_target("ORG/NAME", "dataset", is_private=True)
    written = target.push(Path("digits_10"), replaced=("*.parquet",))

Token, cache and server are the library's own: `hf auth login`, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from dim_ray.errors import StorageError, UsageError, one_line
from dim_ray.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi, HfUri

__all__ = ["SCHEME", "Kind", "Target", "download", "find_target"]

Kind = Literal["model", "dataset"]

SCHEME = "hf://"
_FORMS: dict[Kind, str] = {"model": "hf://ORG/NAME", "dataset": "hf://datasets/ORG/NAME"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A repository that is going to be written."""

    kind: Kind
    name: str
    """ORG/NAME."""
    revision: str | None
    """Branch or commit; None for the main branch."""
    is_private: bool
    """Whether a new repository is private; one that is public already is refused."""

    @property
    def address(self) -> str:
        """Address that `download` reads."""
        at = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"{_FORMS[self.kind].replace('ORG/NAME', self.name)}{at}"

    def push(self, folder: Path, *, replaced: Sequence[str] = ()) -> Target:
        """Upload a folder, create repository and branch if they are missing, and return this target at its commit.

        Files of the repository with the patterns `replaced` are deleted if the folder doesn't have them.

        Raises:
            UsageError: The Hub refuses it, or the repository is public and shouldn't be.
            StorageError: The Hub can't be reached.
        """
        api = _api()
        with _explained(f"write {self.address}"):
            api.create_repo(self.name, repo_type=self.kind, private=self.is_private or None, exist_ok=True)
            if self.is_private and not api.repo_info(self.name, repo_type=self.kind).private:
                raise UsageError(
                    f"{self.name} exists and is public, which --private doesn't change. Make it private in its "
                    "settings, or choose another name."
                )
            if self.revision:
                api.create_branch(self.name, repo_type=self.kind, branch=self.revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=self.name,
                repo_type=self.kind,
                revision=self.revision,
                folder_path=folder,
                delete_patterns=list(replaced) or None,
                commit_message=f"Upload with dim_ray {__version__}",
            )
        return replace(self, revision=commit.oid)


def find_target(text: str, kind: Kind, *, is_private: bool) -> Target:
    """Return the repository of --push-to-hub, ORG/NAME or ORG/NAME@BRANCH, without contacting anybody.

    Raises:
        UsageError: It's no such name, huggingface_hub isn't installed, or there is no token.
    """
    prefix = _FORMS[kind].removesuffix("ORG/NAME")
    name, at, branch = text.removeprefix(prefix).partition("@")
    uri = _parse(f"{prefix}{name}{at}{quote(branch, safe='%')}", kind)
    from huggingface_hub import get_token

    if uri.path_in_repo:
        raise UsageError(f"--push-to-hub is {text!r}; allowed: ORG/NAME or ORG/NAME@BRANCH, without a folder.")
    if get_token() is None:
        raise UsageError(
            "--push-to-hub needs a token that may write. Run `hf auth login`, or set HF_TOKEN; the Hub makes tokens at "
            "https://huggingface.co/settings/tokens."
        )
    return Target(kind=kind, name=uri.id, revision=uri.revision, is_private=is_private)


def download(address: str, kind: Kind, patterns: Sequence[str] = ("*",)) -> Path:
    """Return the local path of a repository, or of a file or folder in it, fetching what the cache doesn't have.

    The address is `hf://ORG/NAME` of a model or `hf://datasets/ORG/NAME`; @REVISION and /PATH may follow. Only files
    with these patterns are fetched.

    Raises:
        UsageError: The address is wrong, nothing is there for this user, or huggingface_hub isn't installed.
        StorageError: The Hub can't be reached, and the cache doesn't have it.
    """
    uri = _parse(address, kind)
    path = uri.path_in_repo
    wanted = [path, *(f"{path}/{pattern}" for pattern in patterns)] if path else list(patterns)
    with _explained(f"read {address}"):
        folder = _api().snapshot_download(uri.id, repo_type=kind, revision=uri.revision, allow_patterns=wanted)
    return Path(folder, path)


def _parse(address: str, kind: Kind) -> HfUri:
    try:
        from huggingface_hub import parse_hf_uri
        from huggingface_hub.errors import HfUriError
    except ImportError as error:
        raise UsageError(
            f"{address} needs huggingface_hub, which isn't installed: pip install 'dim-ray[hub]'."
        ) from error
    try:
        uri = parse_hf_uri(address)
    except HfUriError as error:
        raise UsageError(f"{address} can't be used ({one_line(error.msg)}); allowed: {_FORMS[kind]}.") from error
    if uri.type != kind:
        raise UsageError(f"{address} is a {uri.type}; allowed: {_FORMS[kind]}.")
    return uri


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="dim_ray", library_version=__version__)


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turn the library's errors into ours."""
    import httpx2
    from huggingface_hub import constants, errors

    server = constants.ENDPOINT
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"can't {doing}: {server} has no such branch, tag or commit.") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"can't {doing}: {server} has no such repository, or doesn't show it to you. Check the name; if it's "
            "private or gated, run `hf auth login` or set HF_TOKEN."
        ) from error
    except errors.HfHubHTTPError as error:
        reason = one_line(error.server_message or error)
        if error.response.is_client_error:
            hint = " Give a token that may do it: `hf auth login`, or HF_TOKEN." * (error.response.status_code != 400)
            raise UsageError(f"can't {doing}: {server} refuses it ({reason}).{hint}") from error
        raise StorageError(f"can't {doing}: {server} failed ({reason}). Try again later.") from error
    except ValueError as error:  # metadata that the Hub doesn't accept
        raise UsageError(f"can't {doing}: {one_line(error)}") from error
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: an upload of a large file
        raise StorageError(
            f"can't {doing}: {one_line(error.__cause__ or error)}. Check the network, and that {server} is reachable."
        ) from error
