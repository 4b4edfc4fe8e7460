"""What `hagd doctor` says of the log and the store that the services are set to. Nothing is made or changed."""

from typing import TYPE_CHECKING

from hagd.cli.findings import Finding
from hagd.errors import HagdError

if TYPE_CHECKING:
    from hagd.deployment.config import S3Place
    from hagd.events.kafka.admin import TopicReport
    from hagd.events.kafka.settings import KafkaSettings


def check_deployment() -> list[Finding]:
    """Check broker and bucket where the settings name them; there is nothing to say of a folder."""
    from hagd.deployment.config import S3Place, kafka_of, store_of  # noqa: PLC0415
    from hagd.deployment.sources import read_settings  # noqa: PLC0415

    findings: list[Finding] = []
    try:
        settings = read_settings().settings
        if settings.log == "kafka":
            findings += _kafka(kafka_of(settings))
        store = store_of(settings)
        if isinstance(store, S3Place):
            findings.append(_bucket(store))
    except HagdError as error:
        findings.append(Finding("settings", "problem", error.message, error.hint))
    return findings


def _kafka(settings: "KafkaSettings") -> list[Finding]:
    from hagd.pipeline.stages import discover_stages  # noqa: PLC0415

    name = f"Kafka {settings.servers}"
    try:
        from hagd.events.kafka.admin import Durability, create_topics, plan_topics  # noqa: PLC0415

        reports = create_topics(settings, plan_topics(discover_stages(), {}, 1, Durability()), dry_run=True)
    except ImportError as error:
        return [Finding(name, "problem", f"the client cannot be loaded: {error}", "pip install 'hagd[kafka]'")]
    except HagdError as error:
        return [Finding(name, "problem", error.message, error.hint)]
    return [Finding(name, "ok", "answers"), _missing(reports), *_weak(reports)]


def _missing(reports: "list[TopicReport]") -> Finding:
    missing = [report.name for report in reports if report.action == "would be made"]
    if missing:
        found = f"{len(missing)} of {len(reports)} are missing, such as {missing[0]}"
        return Finding("topics", "problem", found, "make them with `hagd admin topics create`")
    return Finding("topics", "ok", f"all {len(reports)} are there")


def _weak(reports: "list[TopicReport]") -> list[Finding]:
    """Tell each weakness once, with how many topics have it. One broker alone cannot do better, so this only warns."""
    of: dict[str, int] = {}
    for report in reports:
        for weakness in report.weaknesses:
            of[weakness] = of.get(weakness, 0) + 1
    hint = "events may be lost with one broker; alter the topics with the tools of Kafka"
    return [Finding("durability", "warning", f"{what} ({count} topics)", hint) for what, count in of.items()]


def _bucket(place: "S3Place") -> Finding:
    from hagd.deployment.opening import open_s3  # noqa: PLC0415

    name = f"store {place.location}"
    try:
        open_s3(place, create=False)
    except HagdError as error:
        return Finding(name, "problem", error.message, error.hint)
    return Finding(name, "ok", "answers, and keeps to the conditions of writes")
