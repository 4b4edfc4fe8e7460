from google.longrunning import operations_pb2 as _operations_pb2
from hagd.api.extraction.v1 import extraction_pb2 as _extraction_pb2
from hagd.api.run.v1 import run_pb2 as _run_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
