"""Dictionaries from a folder, checked against the model that they are read for."""

from pathlib import Path

from hagd.artifacts.document import Document
from hagd.dictionaries.formats.found import Found
from hagd.dictionaries.formats.registry import check_belongs, read_folder
from hagd.errors import InvalidInputError
from hagd.models.loading import LoadedModel
from hagd.models.storage import model_from_document
from hagd.pipeline.local_files import digest_of_folder


def loaded_from_document(document: Document) -> LoadedModel:
    """Give the model of an earlier stage as files of dictionaries name it; its tokenizer was not kept."""
    provenance = document.content["provenance"]
    source = provenance["source"]
    return LoadedModel(
        model=model_from_document(document),
        tokenizer=None,
        digest=provenance["digest"],
        quantisation=provenance["quantisation"],
        bos=provenance["bos"],
        # One that was trained on the spot has no name.
        name=source.get("name", source["kind"]),
        revision=source.get("revision"),
    )


def read_found(path: str, digest: str | None, loaded: LoadedModel, *, any_name: bool) -> Found:
    """Read a folder of dictionaries of a model, as they are.

    Raises:
        InvalidInputError: they are not those of the digest, not of this model, or cannot be read.
    """
    if digest is not None and digest != digest_of_folder(path):
        raise InvalidInputError(
            "the dictionaries are not those that were asked for", "give the folder that the digest belongs to"
        )
    found = read_folder(Path(path).expanduser())
    check_belongs(found, loaded, any_name=any_name)
    return found
