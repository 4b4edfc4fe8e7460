"""Do the work of the evaluation stage: read dictionaries, fold them into the model's spaces, and measure them."""

from collections.abc import Mapping

from hagd.artifacts.document import Document
from hagd.dictionaries.storage import any_dictionaries_to_document
from hagd.models.loading import LoadedModel
from hagd.pipeline.contract import Config, StageContext
from hagd_transcoder.corpus_dictionaries import measure, read_inputs
from hagd_transcoder.domain.examples import ExamplePlan
from hagd_transcoder.evaluation import read_evaluation_config
from hagd_transcoder.prompt_stage import read_dictionaries


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Give the document `dictionaries` (by layer, or across layers), with what was measured of them.

    Raises:
        InvalidInputError: the dictionaries are not of this model, or cannot be read or folded.
        NonFiniteError: one gives NaN or infinity.
    """
    checked = read_evaluation_config(config)
    model, corpus = read_inputs(inputs)
    provenance = inputs["model"].content["provenance"]
    loaded = LoadedModel(
        model=model,
        tokenizer=None,
        digest=provenance["digest"],
        quantisation=provenance["quantisation"],
        bos=provenance["bos"],
        name=provenance["source"]["name"],
        revision=provenance["source"]["revision"],
    )
    context.progress(0, 1, "reading dictionaries")
    content = read_dictionaries(checked.dictionaries, checked.dictionaries_digest, loaded, any_name=checked.any_name)
    examples = ExamplePlan(checked.shown_features, checked.shown_windows)
    found = measure(model, corpus, content, context, seed=checked.seed, traced=checked.traced, examples=examples)
    belongs = {"model": dict(provenance), "corpus": dict(inputs["corpus"].content.get("provenance", {}))}
    return {"dictionaries": any_dictionaries_to_document(content, belongs | found)}
