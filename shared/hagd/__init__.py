"""Sparse causal circuits of transformers, extracted hierarchically and verified by intervention.

    result = hagd.extract(task="modular-addition", modulus=113)
    result.verdict, result.evidence["headline"]
    result.to_html("circuit.html")

Importing this package loads neither torch nor numpy: a CLI that prints its help must not wait for them.
"""

from typing import TYPE_CHECKING, Any

from hagd.errors import HagdError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from hagd.attribution.trace import Trace
    from hagd.extraction.result import Extraction

    __version__: str

__all__ = ["Extraction", "HagdError", "__version__", "extract", "open_run", "trace"]


def extract(
    model: Any = None,
    pairs: "str | Path | Iterable[Mapping[str, Any]] | None" = None,
    *,
    task: str | None = None,
    out: "str | Path | None" = None,
    store: "str | Path | None" = None,
    threads: int | None = None,
    progress: bool = True,
    use: "Mapping[str, str] | None" = None,
    tokenizer: Any = None,
    **config: Any,
) -> "Extraction":
    """Extract a circuit and verify it, on this machine. The same call again goes on where it stopped.

    Args:
        model: folder, hub id, `smollm2`, or a Hugging Face causal LM; None trains one for an algorithmic task.
        pairs: a JSON Lines file of prompt pairs, or the pairs as mappings.
        task: a task by name, in place of `pairs`.
        out: run folder; by default one below `runs/` that the settings name.
        store: folder of artifacts that runs share; by default that of `$HAGD_STORE`, else one inside the run folder.
        threads: CPU threads of the worker process; all by default.
        progress: show progress on stderr.
        use: place in the plan -> another installed stage, as `{"transcoder": "my-transcoder"}`.
        tokenizer: of a `model` in memory, which text prompts need; a named model brings its own.
        config: named settings (`seed`, `modulus`, `dictionary`, `dictionaries`, `resolution`, `sizes`,
            `budget`, `draws`, `threshold`, `gguf`, `revision`), and fields of a stage as
            `transcoder={"n_features": 512}`.

    Raises:
        UsageError: a setting is refused.
        StageError: a stage could not give a result.
        RunError: the folder belongs to something else, or another process works in it.
    """
    from hagd.extraction import door  # noqa: PLC0415  # keeps `import hagd` cheap

    return door.extract(
        model,
        pairs,
        task=task,
        out=out,
        store=store,
        threads=threads,
        progress=progress,
        use=use,
        tokenizer=tokenizer,
        config=config,
    )


def trace(
    text: str,
    model: Any,
    *,
    dictionaries: "str | Path" = "neurons",
    targets: "Sequence[str]" = (),
    against: str | None = None,
    nodes: int | None = None,
    heads: bool = False,
    vectors: "Mapping[str, Sequence[float]] | None" = None,
    out: "str | Path | None" = None,
    store: "str | Path | None" = None,
    threads: int | None = None,
    progress: bool = True,
    tokenizer: Any = None,
    **config: Any,
) -> "Trace":
    """Trace one prompt of a pretrained model: what each active feature does to the next token.

    Args:
        text: the prompt.
        model: folder, hub id, `smollm2`, or a Hugging Face causal LM.
        dictionaries: `neurons`, or dictionaries in any format that is read: a folder, or `hub:OWNER/NAME[/FOLDER]`.
        targets: tokens to explain; the likeliest when empty.
        against: a token whose logit is subtracted from that of the one target.
        nodes: how many features the graph keeps, those of the largest influence; what fits when None.
        heads: whether attention heads are nodes of the graph.
        vectors: directions behind the final norm to explain, by name: one number per dimension of the residual stream.
        out: run folder; by default one below `runs/` that the settings name.
        store: folder of artifacts that runs share; by default that of `$HAGD_STORE`, else one inside the run folder.
        threads: CPU threads of the worker process; all by default.
        progress: show progress on stderr.
        tokenizer: of a `model` in memory; a named model brings its own.
        config: `gguf`, `revision`, and fields of a stage as `prompt={...}` or `local-graph` in a mapping.

    Raises:
        UsageError: a setting is refused.
        StageError: a stage could not give a result.
        RunError: the folder belongs to something else, or another process works in it.
    """
    from hagd.extraction import door  # noqa: PLC0415  # keeps `import hagd` cheap

    return door.trace(
        text,
        model,
        dictionaries=dictionaries,
        targets=targets,
        against=against,
        nodes=nodes,
        heads=heads,
        vectors=vectors or {},
        out=out,
        store=store,
        threads=threads,
        progress=progress,
        tokenizer=tokenizer,
        config=config,
    )


def open_run(folder: "str | Path", run_id: str | None = None) -> "Extraction":
    """Open the run folder of an earlier extraction.

    Raises:
        NotARunError: it holds no run.
        UnknownNameError: `run_id` fits no run of it, or several.
    """
    from hagd.extraction import door  # noqa: PLC0415  # keeps `import hagd` cheap

    return door.open_run(folder, run_id)


def __getattr__(name: str) -> Any:
    if name == "Extraction":
        from hagd.extraction.result import Extraction  # noqa: PLC0415  # keeps `import hagd` cheap

        return Extraction
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415  # keeps `hagd --help` fast

        return version("hagd")
    raise AttributeError(f"module 'hagd' has no attribute {name!r}")
