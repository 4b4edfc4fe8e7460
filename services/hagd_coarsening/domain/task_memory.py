"""What the graph of a task takes, told before it is begun: traces of all prompts are held to its last edge, in memory
or in files."""

from dataclasses import replace
from typing import Final, NamedTuple

from hagd.errors import InvalidInputError
from hagd.interventions.activations import Subject
from hagd.tasks.task import Layout, Task
from hagd_coarsening.domain.task_graph import GraphConfig, count_prompts, most_prompts, traced_together

_RUNS: Final = 3
"""The clean prompt, its counterfactual, and an unpaired one."""
_TAKEN: Final = 1.8
"""How many times as much is taken as is counted here: what is freed on the way stays with the process until something
of its size is asked for. Measured on 1,501 to 6,001 prompts: 1.6 with the gradient at one point, 2 with several."""


def needs_files(subject: Subject, task: Task, config: GraphConfig, memory_bytes: int, disk_bytes: int) -> bool:
    """Say whether traces must go into files, because memory would not hold those of all prompts.

    Raises:
        InvalidInputError: neither memory nor disk would; says how many prompts fit.
    """
    needed = task_graph_bytes(subject, task, config)
    if needed.in_memory <= memory_bytes:
        return False

    def fits(taken: TaskGraphBytes) -> bool:
        return taken.in_memory <= memory_bytes or (taken.with_files <= memory_bytes and taken.files <= disk_bytes)

    if fits(needed):
        return True
    most, beyond = 0, most_prompts(subject, config)
    while beyond - most > 1:
        middle = (most + beyond) // 2
        if fits(task_graph_bytes(subject, task, replace(config, prompts=middle))):
            most = middle
        else:
            beyond = middle
    smaller = "use a machine with more memory" + (", or fewer steps" if config.steps > 1 else "")
    raise InvalidInputError(
        f"tracing the prompts of task {task.name!r} takes about {needed.with_files / 2**30:.1f} GiB of memory and "
        f"{needed.files / 2**30:.1f} of disk, and {memory_bytes / 2**30:.1f} and {disk_bytes / 2**30:.1f} are there",
        f"ask for at most {most} prompts: --set coarsening.prompts={most}" if most else smaller,
    )


class TaskGraphBytes(NamedTuple):
    """What the graph of a task takes above model, task and dictionaries, at its peak."""

    in_memory: int
    with_files: int
    """Memory, where traces lie in files."""
    files: int


def task_graph_bytes(subject: Subject, task: Task, config: GraphConfig) -> TaskGraphBytes:
    """Count what a graph takes, with traces in memory and in files."""
    if config.resolution == "mixed":
        subject = Subject(subject.model)
    batches = task.batches.get("discover", ())
    counts = count_prompts(batches, most_prompts(subject, config))
    kept = made = one = reads = 0
    widest = max((it.n_features for it in subject.dictionaries.values()), default=0)
    for batch, count in zip(batches, counts, strict=True):
        n_pos, each = len(batch.layout.roles), _kept_cells(subject, batch.layout, config)
        together = min(count, traced_together(subject, n_pos))
        kept += count * each
        one = max(one, together * each)
        made = max(made, together * _made_cells(subject, n_pos))
        # How the features of a layer read is held for all prompts while its rows are taken.
        reads += count * n_pos * widest * config.steps
    cell = subject.model.embed.element_size()
    # What is taken to a file is there twice until it is.
    with_files = 2 * one + made + reads
    return TaskGraphBytes(round(_TAKEN * cell * (kept + made)), round(_TAKEN * cell * with_files), cell * kept)


def _kept_cells(subject: Subject, layout: Layout, config: GraphConfig) -> int:
    """Count what is held of a prompt: its trace, what its nodes write, and the points of its path."""
    shape, dictionaries, n_pos = subject.model.config, subject.dictionaries.values(), len(layout.roles)
    d_model, n_layers, width = shape.d_model, shape.n_layers, shape.n_heads * shape.d_head
    features, skips = sum(it.n_features for it in dictionaries), sum(it.w_skip is not None for it in dictionaries)
    run = d_model * (1 + 2 * n_layers + len(dictionaries) + skips) + n_layers * width + features
    gradients = d_model * (1 + n_layers) + n_layers * width
    # What each MLP and each attention reads, too, and one vector of every node that is no feature.
    place = _RUNS * run + gradients + 2 * n_layers * d_model
    place += d_model * (1 + n_layers * (shape.n_heads + 1) + skips)
    patterns = n_layers * shape.n_heads * n_pos**2
    if config.source_value == "difference":
        place += features
    if config.steps > 1:
        place += config.steps * 3 * n_layers * d_model
        patterns *= 1 + config.steps
    return n_pos * place + patterns + _RUNS * len(layout.answer_positions) * shape.vocab_size


def _made_cells(subject: Subject, n_pos: int) -> int:
    """Count what is alive of a prompt, beside that, while it is traced: what the gradient needs of every layer."""
    shape = subject.model.config
    place = 8 * shape.d_model + 4 * shape.n_heads * shape.d_head + 4 * shape.d_mlp
    return shape.n_layers * (n_pos * place + 2 * shape.n_heads * n_pos**2)
