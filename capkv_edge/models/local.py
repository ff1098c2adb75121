"""Models that are on this machine: in a folder of the user's, and in the hub's cache."""

import os
from dataclasses import dataclass
from pathlib import Path

from . import hub, names

#: the environment variable that names the folder of models
FOLDER_ENV = "CAPKV_MODELS"

DEFAULT_FOLDER = "~/models"


@dataclass(frozen=True)
class Model:
    """One model: what to type for it, its first file, and the bytes of all its files."""

    name: str
    path: Path
    n_bytes: int


def folder(given=None) -> Path:
    """The folder of models: the given one, $CAPKV_MODELS or ~/models. It need not be there."""
    return Path(given or os.environ.get(FOLDER_ENV) or DEFAULT_FOLDER).expanduser()


def find(name: str, given=None) -> Path | None:
    """The file of a model in the folder, by its path there with or without .gguf; None if there is none."""
    for path in (folder(given) / name, folder(given) / f"{name}.gguf"):
        if path.is_file():
            return path
    return None


def models(given=None) -> list:
    """The models of the folder, then those of the hub's cache, each by name.

    given: the folder; None is folder().
    """
    root = folder(given)
    own = [_model(stem if len(files) == 1 else files[0], root, files) for stem, files in names.models(_files(root)).items()]
    cached = [model for repo in _repos() for model in _of_repo(repo)]
    return sorted(own, key=lambda model: model.name) + sorted(cached, key=lambda model: model.name)


def _files(root: Path) -> list:
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix.lower() == ".gguf" and path.is_file()]


def _model(name: str, root: Path, files: list) -> Model:
    return Model(name, root / files[0], sum((root / file).stat().st_size for file in files))


def _repos() -> list:
    folders = sorted(hub.cache().glob("models--*--*")) if hub.cache().is_dir() else []
    return [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders]


def _of_repo(repo: str) -> list:
    root = hub.snapshot(repo)
    found = names.models(_files(root)) if root is not None and root.is_dir() else {}
    quants = [names.quant(stem) for stem in found]
    models = []
    for files, quant in zip(found.values(), quants):
        wanted = quant if quant and quants.count(quant) == 1 else files[0]
        models.append(_model(str(hub.Reference(repo, wanted)), root, files))
    return models
