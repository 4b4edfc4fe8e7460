"""`hagd admin topics create|trim`: what an operator does once, before services start on a cluster, and regularly."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hagd.cli.options import JsonFlag
from hagd.cli.output import EXIT_FAILED, say, write_json, write_table
from hagd.errors import UsageError

if TYPE_CHECKING:
    from hagd.events.kafka.settings import KafkaSettings

app = typer.Typer(help="Prepare a cluster.", no_args_is_help=True)
topics_app = typer.Typer(help="Topics on Kafka.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")


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


def kafka_settings(servers: str | None) -> "KafkaSettings":
    """Give the cluster that is named, or else the one that the services are set to."""
    from hagd.deployment.config import kafka_of  # noqa: PLC0415
    from hagd.deployment.sources import read_settings  # noqa: PLC0415

    return kafka_of(read_settings(flags={"kafka_servers": servers} if servers else {}).settings)


def _count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isdecimal():
        raise UsageError(f"cannot read {text!r}", "write --partitions-of verification=24")
    return name, int(number)
