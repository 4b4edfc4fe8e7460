from google.rpc import status_pb2 as _status_pb2
from hagd.api.artifact.v1 import artifact_pb2 as _artifact_pb2
from hagd.api.run.v1 import run_pb2 as _run_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubmitRequest(_message.Message):
    __slots__ = ("request_id", "plan", "inputs", "labels", "lane")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _artifact_pb2.ArtifactRef
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    plan: _run_pb2.Plan
    inputs: _containers.MessageMap[str, _artifact_pb2.ArtifactRef]
    labels: _containers.ScalarMap[str, str]
    lane: _run_pb2.Lane
    def __init__(self, request_id: _Optional[str] = ..., plan: _Optional[_Union[_run_pb2.Plan, _Mapping]] = ..., inputs: _Optional[_Mapping[str, _artifact_pb2.ArtifactRef]] = ..., labels: _Optional[_Mapping[str, str]] = ..., lane: _Optional[_Union[_run_pb2.Lane, str]] = ...) -> None: ...

class ExtractionUpdate(_message.Message):
    __slots__ = ("request_id", "run", "refused")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    run: _run_pb2.Run
    refused: _status_pb2.Status
    def __init__(self, request_id: _Optional[str] = ..., run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ..., refused: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
