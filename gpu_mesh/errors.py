"""Everything the mesh raises on purpose.

    MeshError
    ├── InvalidValue            a field holds what it must not; also a ValueError
    │   ├── InvalidSetting      … in the environment, `.env` or on the command line
    │   ├── InvalidCheckpoint   … in the state a task saves
    │   │   └── CheckpointTooLarge
    │   └── InvalidTask         … in a task's options, refused in the caller before anything is sent
    │       ├── UnknownQueue
    │       ├── UnknownTaskType
    │       ├── ScriptRefused
    │       └── PayloadTooLarge
    ├── BrokerUnavailable       Redis does not answer at the address named
    │   └── BrokerRefused       … it answers, but not to us: password, user or permission
    ├── EmbeddedRedisError      the Redis server that `gpu-mesh up` carries cannot run
    ├── NodeNameTaken           another living machine uses this node name
    ├── ScriptError             a script of `custom` or `training` did not do its work
    │   ├── ScriptFailed        … it could not start, or ended with an exit code or by a signal
    │   ├── ScriptTimedOut      … it was ended at its time limit
    │   └── ScriptResultTooLarge
    ├── InferenceTimedOut       an `llm_inference` was ended at its time limit
    ├── TaskExited              a task called `sys.exit()`
    ├── StreamIncomplete        what a task streamed has a hole, and no result is kept that would fill it
    ├── JobCancelled            the task whose result is waited for was cancelled
    ├── DeadLettered            … is among the dead letters: nobody runs it until somebody puts it back
    ├── SubmittedInPart         of several tasks only some were sent
    ├── ServiceUnavailable      no device or no engine can do realtime AI work now
    ├── DeviceError             hardware could not be read
    └── EngineError             what runs models failed
        ├── EngineOutOfMemory   what was asked needs more memory than is free
        ├── EngineUnavailable   it does not answer, or cannot do this kind of work
        │   ├── EngineTimeout       … it is silent for longer than allowed
        │   └── EngineUnsupported   … it never does this kind of work: no use to try again
        └── ModelNotFound

Messages say what was wrong, what was expected and what to do. All of them survive the JSON result
backend: `cls(*args)` builds them again.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BrokerRefused",
    "BrokerUnavailable",
    "CheckpointTooLarge",
    "DeadLettered",
    "DeviceError",
    "EmbeddedRedisError",
    "EngineError",
    "EngineOutOfMemory",
    "EngineTimeout",
    "EngineUnavailable",
    "EngineUnsupported",
    "InferenceTimedOut",
    "InvalidCheckpoint",
    "InvalidSetting",
    "InvalidTask",
    "InvalidValue",
    "JobCancelled",
    "MeshError",
    "ModelNotFound",
    "NodeNameTaken",
    "PayloadTooLarge",
    "ScriptError",
    "ScriptFailed",
    "ScriptRefused",
    "ScriptResultTooLarge",
    "ScriptTimedOut",
    "ServiceUnavailable",
    "StreamIncomplete",
    "SubmittedInPart",
    "TaskExited",
    "UnknownQueue",
    "UnknownTaskType",
]

#: How much of a refused value an error message repeats, in characters.
VALUE_SHOWN = 80


class MeshError(Exception):
    """Base of every error the mesh raises on purpose."""


class InvalidValue(MeshError, ValueError):
    """A field holds what it must not.

    `field` is the name the user typed, `value` what it held (a string of it, once it has been through a
    result backend), `remedy` what is allowed or what to do.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(field, value, remedy)
        self.field = field
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > VALUE_SHOWN:
            shown = shown[:VALUE_SHOWN] + "…"
        return f"{self.field}={shown}: {self.remedy}"


class InvalidSetting(InvalidValue):
    """A setting is refused at start."""


class InvalidTask(InvalidValue):
    """A task's options are refused in the caller, before anything is sent."""


class InvalidCheckpoint(InvalidValue):
    """What a task would save is no JSON; nothing was saved."""


class CheckpointTooLarge(InvalidCheckpoint):
    """A state larger than `GPU_MESH_CHECKPOINT_MAX_MB`."""


class UnknownQueue(InvalidTask):
    """No such queue."""


class UnknownTaskType(InvalidTask):
    """No task of that name is known here."""


class ScriptRefused(InvalidTask):
    """No script of that name may be run on this node, or not with these arguments."""


class PayloadTooLarge(InvalidTask):
    """Arguments larger than `GPU_MESH_MAX_PAYLOAD_MB`."""


class BrokerUnavailable(MeshError):
    """Redis does not answer at the address named."""


class BrokerRefused(BrokerUnavailable):
    """Redis answers, but refuses us: password, user or permission."""


class EmbeddedRedisError(MeshError):
    """The Redis server that `gpu-mesh up` carries cannot be run."""


class NodeNameTaken(MeshError):
    """Another living machine uses this node name."""


class ScriptError(MeshError):
    """A script of `custom` or `training` did not do its work.

    `exit_code` is the negative number of the signal where one ended it, `stderr` the end of its standard error.
    """

    def __init__(self, message: str, exit_code: int | None = None, stderr: str = "") -> None:
        super().__init__(message, exit_code, stderr)
        self.exit_code = exit_code
        self.stderr = stderr

    def __str__(self) -> str:
        return f"{self.args[0]}; its last words:\n{self.stderr}" if self.stderr else str(self.args[0])


class ScriptFailed(ScriptError):
    """It could not be started, or ended with an exit code other than 0, or by a signal."""


class ScriptTimedOut(ScriptError):
    """It was ended at its time limit, with all its processes."""


class ScriptResultTooLarge(ScriptError):
    """A result larger than `GPU_MESH_SCRIPT_RESULT_MAX_MB`."""


class InferenceTimedOut(MeshError):
    """An `llm_inference` was ended at its time limit; its engine was told to stop."""


class TaskExited(MeshError):
    """A task called `sys.exit()`: it is to return, or to raise what went wrong."""


class StreamIncomplete(MeshError):
    """What a task streamed has a hole or breaks off, and no result is kept that has the whole."""


class JobCancelled(MeshError):
    """The task whose result is waited for was cancelled, or its time to expire came before its turn."""


class DeadLettered(MeshError):
    """The task is among the dead letters: nobody runs it until `gpu-mesh dead retry` puts it back."""


class SubmittedInPart(MeshError):
    """Of several tasks only some were sent: those of the ids in `sent`. Sending all again would do these twice.

    `unsure` is the id of which it is not known; None where it was refused.
    """

    def __init__(self, message: str, sent: Sequence[str] = (), unsure: str | None = None) -> None:
        super().__init__(message, list(sent), unsure)
        self.sent, self.unsure = list(sent), unsure

    def __str__(self) -> str:
        return str(self.args[0])


class ServiceUnavailable(MeshError):
    """No device or no engine can do realtime AI work now: a submit is refused, and what waits fails.

    `reason` says what is missing; users are told the message alone.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class DeviceError(MeshError):
    """Hardware could not be read. `hard`: it is the hardware's fault, which no restart of an engine cures."""

    def __init__(self, message: str, hard: bool = False) -> None:
        super().__init__(message, hard)
        self.hard = hard

    def __str__(self) -> str:
        return str(self.args[0])


class EngineError(MeshError):
    """What runs models failed."""


class EngineOutOfMemory(EngineError):
    """What was asked of the engine needs more memory than is free."""


class EngineUnavailable(EngineError):
    """The engine does not answer, or cannot do this kind of work."""


class EngineTimeout(EngineUnavailable):
    """The engine was silent for longer than `GPU_MESH_ENGINE_TIMEOUT_S`."""


class EngineUnsupported(EngineUnavailable):
    """The engine never does this kind of work: no use to try again."""


class ModelNotFound(EngineError):
    """The engine has no such model."""
