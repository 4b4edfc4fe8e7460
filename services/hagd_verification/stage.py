"""Stage 4 from artifacts to artifacts: decode, verify, encode."""

from collections.abc import Mapping
from typing import Final

from hagd.artifacts.document import Document
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.graphs.storage import circuit_from_document, graph_from_document
from hagd.models.storage import model_from_document
from hagd.models.weights import model_digest
from hagd.pipeline.contract import Config, StageContext
from hagd.tasks.storage import task_from_document
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.settings import Settings
from hagd_verification.domain.verification import verify
from hagd_verification.handlers import VerificationConfig

SCHEMA: Final = "hagd.cli/v1"


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Verify a circuit and describe its nodes. See `StageFunction`.

    Raises:
        InvalidInputError: the circuit does not belong to the model and task, or D_verify is too small.
        CorruptArtifactError: an input is not what its role says.
    """
    settings = Settings(**VerificationConfig.model_validate(dict(config)).model_dump())
    task = task_from_document(inputs["task"])
    model = model_from_document(inputs["model"])
    circuit = circuit_from_document(inputs["circuit"])
    dictionaries = dictionaries_from_document(inputs["dictionaries"])
    frontier = Frontier.of(circuit, model, dictionaries, task)
    data, cards = verify(frontier, task, graph_from_document(inputs["graph"]), settings, context.progress)
    stored = inputs["model"].content
    identity = {"digest": model_digest(model), "quantisation": stored.get("quantisation"), "bos": task.bos}
    return {
        "verification": Document({"schema": SCHEMA, "kind": "verification", "data": {**data, "model": identity}}),
        "cards": Document({"schema": SCHEMA, "kind": "cards", "data": cards}),
    }
