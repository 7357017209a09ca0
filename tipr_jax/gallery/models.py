"""The model of a gallery: how it is recorded, checked, and opened quickly."""

import os
from pathlib import Path

import jax

from tipr_jax.gallery.interface import GalleryStore
from tipr_jax.gallery.store import Model
from tipr_jax.inference import exported
from tipr_jax.inference.embedder import Embedder
from tipr_jax.paths import model_path


def open_model(model: str | Path | Embedder, language: str = "") -> Embedder:
    """A model, or the one of a run, model or exported directory, also hf://OWNER/NAME.

    language: of a run in several languages, take the checkpoint that is best in this one.

    Raises:
      ValueError, OSError: as `inference.model.load` and `ExportedModel`.
    """
    if isinstance(model, Embedder):
        return model
    model = model_path(model, "model")
    if exported.is_exported(model) and jax.device_count() == 1:
        return exported.ExportedModel(model)
    from tipr_jax.inference.model import load  # with Flax and Orbax, which take a second to import

    return load(model, language)


def open_recorded(store: GalleryStore, record: Model) -> Embedder:
    """The model that a gallery records: its programs if this machine keeps them, else as it was.

    Raises:
      ValueError: its directory is gone, or holds another model now.
      ValueError, OSError: as `open_model`.
    """
    # Programs run on one device. Where there are several, the model is read as long as it is there.
    there = os.path.isdir(record.directory)
    if jax.device_count() == 1 or not there:
        if (kept := exported.kept(record.fingerprint)) is not None:
            return kept
    if not there:
        raise ValueError(
            f"{store.path}: its model was {record.directory}, which is not there; say where it "
            "is, as in --model=RUN"
        )
    model = open_model(record.directory, record.facts["checkpoint_of_language"])
    check_same_model(store, record, model)
    return model


def keep(model: Embedder) -> None:
    """Lets later processes of this machine open the model quickly, see `artifact.keep`."""
    if not isinstance(model, exported.ExportedModel):
        from tipr_jax.inference import artifact  # it writes programs, with Flax and Orbax

        artifact.keep(model)


def register(store: GalleryStore, model: Embedder, language: str = "") -> Model:
    """Records a model in a gallery; language: which checkpoint of its run it is."""
    facts = {
        "method": model.method,
        "image_size": list(model.image_size),
        "resize": model.test_resize,
        "languages": list(model.languages or model.caption_languages),
        "checkpoint_of_language": language,
    }
    directory = os.path.abspath(model.directory) if model.directory else ""
    return store.register_model(model.fingerprint, directory, model.feature_size, facts)


def check_same_model(store: GalleryStore, record: Model, model: Embedder) -> None:
    """Raises ValueError unless the gallery's vectors are this model's."""
    if model.fingerprint != record.fingerprint:
        here = model.directory or "the given model"
        raise ValueError(
            f"{store.path} holds vectors of another model ({record.directory}, "
            f"{record.fingerprint[:8]}) than {here} ({model.fingerprint[:8]}), which cannot be "
            f"compared; embed its photos again: python -m tipr_jax.gallery reindex "
            f"--gallery={store.path} --model={here}"
        )
