"""Models of the Hugging Face Hub, through its own client: a name to files, downloads that resume, checksums.

The client decides where the hub is (HF_ENDPOINT), where its cache is (HF_HOME, HF_HUB_CACHE), and who asks (HF_TOKEN).
"""

import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import units
from . import names

PREFIX = "hf.co/"

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_N_CHUNK = 1 << 22
_N_HTTP_MAX = 50 * 10**9  # bytes of a file that the client downloads over HTTP; it has another way for larger ones


@dataclass(frozen=True)
class Reference:
    """A model on the hub: "OWNER/REPO", and a quantization or the name of a file; "" leaves the choice to names.choose()."""

    repo: str
    wanted: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        return PREFIX + self.repo + (f":{self.wanted}" if self.wanted else "")


def is_name(name: str) -> bool:
    """Whether this names a model on the hub, and no file here."""
    return name.startswith((PREFIX, "https://", "http://"))


def parse(name: str) -> Reference:
    """Read "hf.co/OWNER/REPO:QUANT", "OWNER/REPO:QUANT", or the address of a page or a file on the hub.

    Raises:
        ValueError: it is none of them.
    """
    rest = _without_host(name)
    head, _, wanted = rest.partition(":")
    owner, repo, *more = (head.strip("/").split("/") + [""])[:2] + head.strip("/").split("/")[2:]
    revision = "main"
    if len(more) > 2 and more[0] in ("blob", "resolve"):
        revision, more = more[1], more[2:]
    if not _REPO.fullmatch(f"{owner}/{repo}") or (more and (wanted or not more[-1].lower().endswith(".gguf"))):
        raise ValueError(f"{name}: a model on the hub is named {PREFIX}OWNER/REPO:QUANT, such as {PREFIX}OWNER/REPO:Q4_K_M")
    return Reference(f"{owner}/{repo}", "/".join(more) or wanted, revision)


def _without_host(name: str) -> str:
    if name.startswith(PREFIX):
        return name.removeprefix(PREFIX)
    if "://" in name:
        from huggingface_hub import constants

        for start in (constants.ENDPOINT.rstrip("/") + "/", "https://" + PREFIX):
            if name.startswith(start):
                return name.removeprefix(start)
        raise ValueError(f"{name}: models are downloaded from {constants.ENDPOINT} alone (HF_ENDPOINT)")
    return name


def fetch(wanted: Reference, say=None) -> Path:
    """The file of a model, or the first of its parts: from the client's cache, or downloaded into it.

    A download that was cut off goes on where it ended. Each downloaded file is compared with the checksum that the hub has of it.

    Args:
        say: takes a line on what is downloaded; None says nothing.

    Raises:
        FileNotFoundError, ValueError: as names.choose(); or the hub has no such repository.
        PermissionError: the owner of the repository asks for consent first.
        ConnectionError: the hub cannot be reached, or fails, and the cache has no such model.
        OSError: there is no room on the disk, or the file is damaged.
    """
    cached = _in_cache(wanted)
    if cached is not None:
        return cached
    found = _ask(wanted)
    sizes = {file.rfilename: file for file in found.siblings or ()}
    files = names.choose(sizes, wanted.wanted, PREFIX + wanted.repo)
    return _download(wanted, found.sha, [sizes[name] for name in files], say or (lambda line: None))[0]


def _in_cache(wanted: Reference) -> Path | None:
    """The model in the client's cache; None if it is not there, or if no quantization is named and the usual one is not there."""
    folder = snapshot(wanted.repo, wanted.revision)
    if folder is None:
        return None
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
    try:
        return folder / names.choose(files, wanted.wanted or names.DEFAULT_QUANTS[0], str(wanted))[0]
    except (FileNotFoundError, ValueError):
        return None


def cache() -> Path:
    """The folder of the client's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _folder(repo: str) -> Path:
    """Where the client's cache has a repository."""
    return cache() / f"models--{repo.replace('/', '--')}"


def snapshot(repo: str, revision: str = "main") -> Path | None:
    """The folder of the files of a repository in the client's cache; None if it has none."""
    folder = _folder(repo)
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return folder / "snapshots" / commit


@contextmanager
def _errors(wanted: Reference):
    """Turn the client's errors into one line each."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as err:
        raise PermissionError(f"{wanted}: its owner asks for consent first, on its page on the hub; then `hf auth login`") from err
    except errors.RepositoryNotFoundError as err:
        raise FileNotFoundError(f"{wanted}: the hub has no such repository, or a private one: `hf auth login`") from err
    except errors.RevisionNotFoundError as err:
        raise FileNotFoundError(f"{wanted}: the repository has no revision {wanted.revision}") from err
    except errors.EntryNotFoundError as err:
        raise FileNotFoundError(f"{wanted}: the hub has lost the file: {err}") from err
    except errors.OfflineModeIsEnabled as err:
        raise ConnectionError(f"{wanted} is not in the cache ({cache()}), and HF_HUB_OFFLINE forbids to download it") from err
    except Exception as err:  # the client lets through what its HTTP library raises
        if isinstance(err, OSError) and err.errno is not None:  # of the disk
            raise
        said = str(err).strip().split("\n")[0] or type(err).__name__
        raise ConnectionError(f"{wanted}: {constants.ENDPOINT} does not answer as it should: {said}") from err


def _ask(wanted: Reference):
    from huggingface_hub import HfApi

    with _errors(wanted):
        return HfApi().model_info(wanted.repo, revision=wanted.revision, files_metadata=True, timeout=20)


def _download(wanted: Reference, commit: str, files: list, say) -> list:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    missing = [file for file in files if not isinstance(try_to_load_from_cache(wanted.repo, file.rfilename, revision=commit), str)]
    _check_room(wanted, sum((file.size or 0) - _n_partial(wanted.repo, file) for file in missing))
    paths = []
    for file in files:
        if file in missing:
            n, done = file.size or 0, _n_partial(wanted.repo, file)
            size = f", {units.size(n)}" + (f", of which {done / n:.0%} are here" if done else "") if n else ""
            say(f"downloading {file.rfilename} of {PREFIX}{wanted.repo}{size}")
            if file.lfs and n <= _N_HTTP_MAX:
                _resume(wanted, commit, file)
        with _errors(wanted):
            # of what is among the blobs of the cache it only notes what it is. The revision by its name: so the cache knows its commit
            paths.append(Path(hf_hub_download(wanted.repo, file.rfilename, revision=wanted.revision)))
    return paths


def _blob(repo: str, file) -> Path | None:
    """Where the client's cache has the contents of a large file, which it names by their SHA-256; None for a small one."""
    return _folder(repo) / "blobs" / file.lfs.sha256 if file.lfs else None


def _partial(blob: Path) -> Path:
    return blob.with_name(blob.name + ".incomplete")


def _n_partial(repo: str, file) -> int:
    blob = _blob(repo, file)
    return _partial(blob).stat().st_size if blob is not None and _partial(blob).is_file() else 0


def _resume(wanted: Reference, commit: str, file) -> None:
    """Download a large file into the client's cache, from where the last try ended. The client itself begins anew in each process.

    The file is put among the others when its checksum is the hub's: a damaged one never is there.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    blob = _blob(wanted.repo, file)
    lock = cache() / ".locks" / blob.parent.parent.name / f"{blob.name}.lock"  # the client's own
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(wanted.repo, file.rfilename, revision=commit)
    with WeakFileLock(str(lock)):
        if blob.exists():
            return
        with _errors(wanted), _partial(blob).open("ab") as stream:
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            n = stream.seek(0, os.SEEK_END)
            http_get(url, stream, resume_size=n, headers=headers, expected_size=file.size, displayed_filename=file.rfilename)
        found = _sha256(_partial(blob))
        if found != file.lfs.sha256:
            _partial(blob).unlink()
            raise OSError(f"{file.rfilename} was damaged on its way, and is removed: its SHA-256 is {found}, the hub's {file.lfs.sha256}")
        _partial(blob).rename(blob)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_N_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check_room(wanted: Reference, n_bytes: int) -> None:
    folder = cache()
    while not folder.exists():
        folder = folder.parent
    n_free = shutil.disk_usage(folder).free
    if n_bytes > n_free:
        raise OSError(f"{wanted} takes {units.size(n_bytes)}, and {units.size(n_free)} are free in {cache()}")
