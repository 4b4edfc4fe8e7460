"""Do the work of the import: read dictionaries, fold them into the model's spaces, and measure them on the task."""

from collections.abc import Mapping

from hagd.artifacts.document import Document
from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.formats.spaces import fold_one
from hagd.dictionaries.storage import dictionaries_to_document
from hagd.errors import InvalidInputError
from hagd.interventions.activations import Subject
from hagd.pipeline.contract import Config, StageContext
from hagd.tasks.storage import task_from_document
from hagd_transcoder.dictionary_import import read_import_config
from hagd_transcoder.dictionary_reading import loaded_from_document, read_found
from hagd_transcoder.domain.evaluation import evaluate
from hagd_transcoder.measuring import in_measured_space, tokens_of_task


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> dict[str, Document]:
    """Give the document `dictionaries` (by layer), with what was measured of them. See `StageFunction`.

    Raises:
        InvalidInputError: the dictionaries are not of this model, do not explain it on the task's prompts, run across
            layers, or cannot be read or folded.
        NonFiniteError: one gives NaN or infinity.
    """
    checked = read_import_config(config)
    loaded, task = loaded_from_document(inputs["model"]), task_from_document(inputs["task"])
    context.progress(0, 2, "reading dictionaries")
    found = read_found(checked.dictionaries, checked.dictionaries_digest, loaded, any_name=checked.any_name)
    if isinstance(content := found.content, CrossLayerTranscoder):
        raise InvalidInputError(
            "these dictionaries run across layers, and the nodes of a circuit are of one layer each",
            "give dictionaries of layers, or trace single prompts with these: hagd graph build --text",
        )
    if checked.measure:
        found = in_measured_space(found, loaded.model, tokens_of_task(found, loaded.model, task), "transcoder")
    blocks = loaded.model.blocks
    folded = {layer: fold_one(it, found.space, blocks[layer].norm_mlp) for layer, it in content.items()}
    context.progress(1, 2, "measuring the dictionaries on D_select")
    return {"dictionaries": dictionaries_to_document(folded, evaluate(Subject(loaded.model, folded), task))}
