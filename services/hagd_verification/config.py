"""What is fixed about this service: its name, its stages, its port."""

from collections.abc import Sequence
from typing import Final

from hagd.rpc.wiring import ServiceConfig, parse_arguments

NAME: Final = "verification"
STAGES: Final = ("verification",)
PORT: Final = 50054


def read_config(arguments: Sequence[str] | None = None) -> ServiceConfig:
    """Read the command line and the environment."""
    return parse_arguments("hagd_verification", PORT, arguments)
