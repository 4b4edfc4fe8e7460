"""Who may use which objects of a bucket: the least that the stages of one service need, as a policy of S3.

Blobs, manifests, leases and checkpoints have names that follow from their content, so no stage can be kept from those
of another. What counts is that manifests are never removed, that of a run only the marks of its own stages are written,
and that nothing else in the bucket can be touched. Names may be listed, because a server tells "absent" from "refused"
only to who may list.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from hagd.errors import InvalidInputError

_VERSION: Final = "2012-10-17"
_WRITE: Final = (
    "blobs/*",
    "objects/manifests/*",
    "objects/leases/*",
    "objects/checkpoints/*",
    # Which runs of a principal go on.
    "objects/active/*",
)
# Whether a person has told a stage to rest, which is not for stages to say.
_READ: Final = (*_WRITE, "objects/runs/*", "objects/control/*")
# Any service takes requests and cancels, starts a run again whose artifacts are damaged, and may be the one to end it.
_WRITE_OF_RUNS: Final = ("request", "g????/opened", "g????/cancel", "g????/outcome")
# A checkpoint is a blob too, and goes when its task has a result.
_DELETE: Final = ("blobs/*", "objects/checkpoints/*", "objects/active/*")
_PROBES: Final = ("probes/*",)


def stage_policy(stages: Sequence[str], bucket: str, prefix: str = "") -> dict[str, Any]:
    """Give the policy of a service that works off some stages.

    Args:
        stages: their ids.
        bucket: the bucket, which should hold nothing but one deployment.
        prefix: the folder in it, without a slash at either end; empty for the whole bucket.

    Raises:
        InvalidInputError: there is no stage, or a name would widen the policy.
    """
    names = [bucket, *stages, *([prefix] if prefix else [])]
    if not stages or any(not name or set(name) & set("*?${}\\") for name in names):
        raise InvalidInputError(
            f"no policy can be made of {names}", "name stages and a bucket, without '*', '?' or '$'"
        )
    base = f"{prefix}/" if prefix else ""
    own = [f"g????/??-{stage}.{mark}" for stage in stages for mark in ("started", "shards", "done")]
    runs = [f"objects/runs/*/{name}" for name in (*_WRITE_OF_RUNS, *own)]

    def allow(actions: Sequence[str], places: Iterable[str]) -> dict[str, Any]:
        resources = [f"arn:aws:s3:::{bucket}/{base}{place}" for place in places]
        return {"Effect": "Allow", "Action": [f"s3:{it}" for it in actions], "Resource": resources}

    return {
        "Version": _VERSION,
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]},
            allow(["GetObject"], _READ),
            allow(["PutObject", "AbortMultipartUpload", "ListMultipartUploadParts"], [*_WRITE, *runs]),
            allow(["DeleteObject"], _DELETE),
            # Tried once at the start: whether the server keeps to conditions.
            allow(["GetObject", "PutObject", "DeleteObject"], _PROBES),
        ],
    }
