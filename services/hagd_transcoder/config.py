"""What is fixed about this service: its name, its stages, its port."""

from typing import Final

from hagd.rpc.process import Identity

IDENTITY: Final = Identity("transcoder", ("subject", "transcoder"), 50051)
