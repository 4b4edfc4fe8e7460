"""The driver of each service over Kafka and MinIO: what it takes to be there, before it has any work."""

from benchmarks.cluster.place import Place
from benchmarks.cluster.services import running_service
from benchmarks.tables import Row

SERVICES = ("transcoder", "coarsening", "traversal", "verification")
_MIB = 2**20


def measure(place: Place) -> list[Row]:
    """Start each service with its own stages on its own, twice: the first start also makes the bucket."""
    environment = place.environment(place.bucket())
    seconds: dict[str, float] = {}
    sizes: dict[str, float] = {}
    queued: dict[str, float] = {}
    torches = 0
    for name in ("verification", *SERVICES):
        with running_service(name, place.folder, environment) as service:
            seconds[name] = service.serving_seconds
            queued[name] = service.queued_seconds()
            sizes[name] = service.rss_bytes() / _MIB
            torches += service.has_loaded("libtorch")
    return [
        Row("driver: services that load torch", torches, 0, at_most=True),
        Row("driver: RSS (MiB)", max(sizes.values()), 150, at_most=True, note=_each(sizes, ".0f")),
        Row("driver: SERVING after (s)", max(seconds.values()), 5, at_most=True, note=_each(seconds, ".2f")),
        Row("driver: of which it waited for a processor (s)", max(queued.values())),
    ]


def _each(values: dict[str, float], form: str) -> str:
    return "largest of " + ", ".join(f"{name} {value:{form}}" for name, value in values.items())
