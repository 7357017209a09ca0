"""Addresses of the Hugging Face Hub, hf://OWNER/NAME[@REVISION][/PATH], and what they name.

PATH is a file or a folder; without PATH the whole repository is meant. With a file, the files
*config.json beside it are fetched, too, for they tell of weights what shapes do not. What was
fetched stays in the cache of huggingface_hub, which HF_HOME moves; with HF_HUB_OFFLINE=1 nothing
else is used.
"""

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLE = "hf://OWNER/NAME[@REVISION][/FILE], as in hf://openai/clip-vit-base-patch16"
_NAME = r"[A-Za-z0-9][\w.-]*"
# A revision is a branch, a tag or a commit; of those with "/" the Hub has refs/pr/N alone.
_ADDRESS = re.compile(
    rf"hf:/{{1,2}}(?P<repository>{_NAME}/{_NAME})(@(?P<revision>refs/pr/\d+|[^/@]+))?(/(?P<path>.+?))?/?"
)
# The same weights for frameworks that nothing here reads.
IGNORED = ["*.h5", "*.msgpack", "*.ot", "*.tflite"]


class Address(NamedTuple):
    """revision: "" for the main branch. path: in the repository, "" for all of it."""

    repository: str
    revision: str
    path: str


def parse(given: str | Path, flag: str) -> Address:
    """Raises ValueError for an address of another form."""
    found = _ADDRESS.fullmatch(str(given))
    if not found or ".." in (found["path"] or "").split("/"):
        raise ValueError(f"{flag}={given}: not an address of the Hub; expected {EXAMPLE}")
    return Address(found["repository"], found["revision"] or "", found["path"] or "")


def fetch(given: str | Path, flag: str) -> Path:
    """The file or folder that an address names, fetched into the cache if it is not there.

    flag: what it was given for, for messages.

    Raises:
      ValueError: a malformed address; the extra `hub` is missing; no such repository, revision or
        file; no access; not in the cache, and offline.
    """
    address = parse(given, flag)
    hub = _huggingface_hub(flag, given)
    place = address.path
    beside = place.rpartition("/")[0] + "/" if "/" in place else ""
    with _mistakes(flag, given):
        snapshot = hub.snapshot_download(
            address.repository,
            revision=address.revision or None,
            allow_patterns=[place, f"{place}/*", f"{beside}*config.json"] if place else None,
            ignore_patterns=IGNORED,
        )
    found = Path(snapshot) / place
    if not found.exists():
        raise ValueError(f"{flag}={given}: {address.repository} has no file or folder {place!r}")
    return found


def push(directory: str | Path, given: str, *, private: bool = False) -> str:
    """Uploads a directory as a model repository, made if it is not there; returns its address.

    Raises:
      ValueError: an address with a revision or path; no token; a public repository although
        `private` was asked for; the others as `fetch`.
    """
    address = parse(given, "push")
    if address.revision or address.path:
        raise ValueError(f"push={given}: a whole repository is written; expected hf://OWNER/NAME")
    hub = _huggingface_hub("push", given)
    if not hub.get_token():
        raise ValueError(
            f"push={given}: no token of the Hub; log in with `hf auth login`, or set HF_TOKEN"
        )
    api = hub.HfApi()
    with _mistakes("push", given):
        url = api.create_repo(address.repository, private=private or None, exist_ok=True)
        if private and not api.repo_info(address.repository).private:
            raise ValueError(
                f"push={given}: the repository exists and is public, --private was asked for; "
                "change it on the Hub, or choose another name"
            )
        api.upload_folder(folder_path=str(directory), repo_id=address.repository)
    return str(url)


def _huggingface_hub(flag: str, given: str | Path) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise ValueError(
            f"{flag}={given} needs huggingface_hub; install it: pip install 'tipr_jax[hub]'"
        ) from None


@contextlib.contextmanager
def _mistakes(flag: str, given: str | Path) -> Iterator[None]:
    """Errors of huggingface_hub as ValueError of one line."""
    errors: Any = importlib.import_module("huggingface_hub.errors")
    what = f"{flag}={given}"
    known = (  # the special ones first: most are kinds of the last
        (errors.GatedRepoError, "its owner must admit you: ask on its page, then `hf auth login`"),
        (errors.RepositoryNotFoundError, "no such repository, or a private one without a token"),
        (errors.RevisionNotFoundError, "the repository has no such revision"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set; unset it, or give a local path"),
        (errors.LocalEntryNotFoundError, "not in the cache, and the Hub is not to be reached"),
        (errors.HFValidationError, f"not an address of the Hub; expected {EXAMPLE}"),
    )
    try:
        yield
    except tuple(kind for kind, _ in known) as error:
        hint = next(text for kind, text in known if isinstance(error, kind))
        raise ValueError(f"{what}: {hint}") from None
    except Exception as error:  # httpx2's, in older versions httpx's, have nothing in common
        http = type(error).__module__.startswith("httpx")
        if not http and not isinstance(error, errors.HfHubHTTPError | ConnectionError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what}: the Hub refused or is out of reach ({reason})") from None
