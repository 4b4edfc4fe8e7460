"""Do the work of the evaluation stage: read dictionaries, fold them into the model's spaces, and measure them."""

from collections.abc import Mapping

from hagd.artifacts.document import Document
from hagd.corpora.storage import corpus_from_document
from hagd.dictionaries.formats.spaces import fold
from hagd.dictionaries.storage import any_dictionaries_to_document
from hagd.pipeline.contract import Config, StageContext
from hagd_transcoder.corpus_dictionaries import measure
from hagd_transcoder.dictionary_reading import loaded_from_document, read_found
from hagd_transcoder.domain.examples import ExamplePlan
from hagd_transcoder.evaluation import read_evaluation_config


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Give the document `dictionaries` (by layer, or across layers), with what was measured of them.

    Raises:
        InvalidInputError: the dictionaries are not of this model, or cannot be read or folded.
        NonFiniteError: one gives NaN or infinity.
    """
    checked = read_evaluation_config(config)
    loaded, corpus = loaded_from_document(inputs["model"]), corpus_from_document(inputs["corpus"])
    context.progress(0, 1, "reading dictionaries")
    found = read_found(checked.dictionaries, checked.dictionaries_digest, loaded, any_name=checked.any_name)
    content = fold(found, loaded.model).content
    examples = ExamplePlan(checked.shown_features, checked.shown_windows)
    seed, traced = checked.seed, checked.traced
    measured = measure(loaded.model, corpus, content, context, seed=seed, traced=traced, examples=examples)
    belongs = {it: dict(inputs[it].content.get("provenance", {})) for it in ("model", "corpus")}
    return {"dictionaries": any_dictionaries_to_document(content, belongs | measured)}
