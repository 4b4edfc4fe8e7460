"""`hagd admin`: what an operator does before services start on a cluster, trims regularly, and lets rest.

topics create|trim, acls create, policies, stage list|pause|resume|drain
"""

from typing import Annotated, Any, Final

import typer

from hagd.cli import resting
from hagd.cli.clusters import kafka_settings
from hagd.cli.options import JsonFlag
from hagd.cli.output import EXIT_FAILED, say, write_json, write_table
from hagd.cli.services import PLACES
from hagd.errors import UsageError

STAGES: Final = tuple(stage for stages in PLACES.values() for stage in stages)
app = typer.Typer(help="Prepare a cluster.", no_args_is_help=True)
topics_app = typer.Typer(help="Topics on Kafka.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
acls_app = typer.Typer(help="What each service may do on Kafka.", no_args_is_help=True)
app.add_typer(acls_app, name="acls")
app.add_typer(resting.app, name="stage")
PrincipalOption = Annotated[
    list[str] | None,
    typer.Option(
        "--principal", metavar="NAME=STAGE,...", help="A service and its stages; the four of hagd by default."
    ),
]
ServersOption = Annotated[
    str | None, typer.Option(help="host:port of Kafka, several with commas; as for the services by default.")
]
StageOption = Annotated[
    list[str] | None, typer.Option("--stage", metavar="STAGE", help="A stage; the installed ones by default.")
]


@app.callback()
def admin() -> None:
    """Prepare a cluster."""


@topics_app.callback()
def topics() -> None:
    """Topics on Kafka."""


@topics_app.command("create")
def create(
    servers: ServersOption = None,
    stage: StageOption = None,
    partitions: Annotated[int, typer.Option(help="Partitions of a stage: how many may work it off at once.")] = 12,
    partitions_of: Annotated[
        list[str] | None, typer.Option("--partitions-of", metavar="STAGE=N", help="Partitions of one stage.")
    ] = None,
    replication: Annotated[int, typer.Option(help="Brokers that hold each partition.")] = 3,
    min_insync: Annotated[int, typer.Option(help="Brokers that have an event before it counts as written.")] = 2,
    fact_days: Annotated[int, typer.Option(help="Days for which facts are kept.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, make nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make the topics that are missing. Exit code 1 when one that is there promises less than is asked for."""
    from hagd.events.kafka.admin import Durability, create_topics, plan_topics  # noqa: PLC0415
    from hagd.pipeline.stages import discover_stages  # noqa: PLC0415

    settings = kafka_settings(servers)
    counts = dict(_count(text) for text in partitions_of or [])
    plans = plan_topics(stage or discover_stages(), counts, partitions, Durability(replication, min_insync, fact_days))
    reports = create_topics(settings, plans, dry_run=dry_run)
    if as_json:
        write_json("topics", [report.__dict__ for report in reports])
    else:
        rows: list[list[Any]] = [[it.action, it.name, it.partitions, "; ".join(it.weaknesses)] for it in reports]
        write_table(["", "topic", "partitions", "weaker in"], rows)
    if any(report.weaknesses for report in reports):
        say("hint: alter those topics with the tools of Kafka, or ask for less")
        raise typer.Exit(EXIT_FAILED)


@topics_app.command("trim")
def trim(
    servers: ServersOption = None,
    stage: StageOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete requests that are worked off. They have no retention, so run this daily; open ones are never touched."""
    from hagd.events.kafka.trim import trim_topics  # noqa: PLC0415
    from hagd.events.topics import ENTRY_STAGE  # noqa: PLC0415
    from hagd.pipeline.stages import discover_stages  # noqa: PLC0415

    settings = kafka_settings(servers)
    found = trim_topics(settings, stage or [ENTRY_STAGE, *discover_stages()], dry_run=dry_run)
    if as_json:
        write_json("topics-trimmed", [it.__dict__ for it in found])
        return
    rows: list[list[Any]] = [[it.topic, it.partition, it.deleted, it.first_offset] for it in found]
    write_table(["topic", "partition", "would go" if dry_run else "gone", "first left"], rows)


@acls_app.callback()
def acls() -> None:
    """What each service may do on Kafka."""


@acls_app.command("create")
def create_acls(
    servers: ServersOption = None,
    principal: PrincipalOption = None,
    chain: Annotated[
        list[str] | None,
        typer.Option("--chain", metavar="STAGE,...", help="A plan that is to be possible; that of hagd by default."),
    ] = None,
    producer: Annotated[
        list[str] | None,
        typer.Option("--producer", metavar="NAME", help="A user of another system that asks for runs."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be allowed, allow nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Allow each service what its stages need. Exit code 1 when one may do more than that already."""
    from hagd.events.kafka import acls as kafka_acls  # noqa: PLC0415

    settings = kafka_settings(servers)
    chains = [tuple(text.split(",")) for text in chain] if chain else [STAGES]
    grants = kafka_acls.plan_grants(_principals(principal), chains, settings.group_prefix, producer or [])
    report = kafka_acls.create_acls(settings, grants, dry_run=dry_run)
    rows = [{"action": it.action} | it.grant.__dict__ for it in report.grants]
    if as_json:
        write_json("acls", {"grants": rows, "beyond": report.beyond})
    else:
        write_table(["", "principal", "kind", "name", "operation"], [list(row.values()) for row in rows])
    if report.beyond:
        for line in report.beyond:
            say(f"beyond what is needed: {line}")
        say("hint: take those away with kafka-acls of Kafka")
        raise typer.Exit(EXIT_FAILED)


@app.command()
def policies(
    bucket: Annotated[str, typer.Option(help="Bucket of the store.")],
    prefix: Annotated[str, typer.Option(help="Folder in the bucket; the whole bucket by default.")] = "",
    principal: PrincipalOption = None,
) -> None:
    """Print what each service may do in the S3 store, as JSON: {service: policy}."""
    from hagd.artifacts.s3_policies import stage_policy  # noqa: PLC0415

    found = {name: stage_policy(stages, bucket, prefix) for name, stages in _principals(principal).items()}
    write_json("policies", found)


def _principals(given: list[str] | None) -> dict[str, tuple[str, ...]]:
    """Read `NAME=STAGE,...`; by default a principal for each service, of which the first also hands requests on."""
    if not given:
        found = {f"hagd-{service}": stages for service, stages in PLACES.items()}
        return found | {"hagd-transcoder": ("extraction", *found["hagd-transcoder"])}
    pairs = [text.partition("=") for text in given]
    for name, _, stages in pairs:
        if not name or not all(stages.split(",")):
            raise UsageError(f"cannot read {name!r}", "write --principal hagd-traversal=traversal")
    return {name: tuple(stages.split(",")) for name, _, stages in pairs}


def _count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isdecimal():
        raise UsageError(f"cannot read {text!r}", "write --partitions-of verification=24")
    return name, int(number)
