"""Everything the mesh raises on purpose.

    MeshError
    ├── InvalidValue            a field holds what it must not; also a ValueError
    │   ├── InvalidSetting      … in the environment, `.env` or on the command line
    │   ├── InvalidCheckpoint   … in the state a task saves
    │   │   └── CheckpointTooLarge
    │   └── InvalidTask         … in a task's options, refused in the caller before anything is sent
    │       ├── UnknownQueue
    │       ├── UnknownTaskType
    │       └── PayloadTooLarge
    ├── BrokerUnavailable       Redis does not answer at the address named
    │   └── BrokerRefused       … it answers, but not to us: password, user or permission
    ├── EmbeddedRedisError      the Redis server that `gpu-mesh up` carries cannot run
    ├── NodeNameTaken           another living machine uses this node name
    ├── DeviceError             hardware could not be read
    └── EngineError             what runs models failed
        ├── EngineUnavailable   it does not answer, or cannot do this kind of work
        └── ModelNotFound

Messages say what was wrong, what was expected and what to do. All of them survive the JSON result
backend: `cls(*args)` builds them again.
"""

from __future__ import annotations

__all__ = [
    "BrokerRefused",
    "BrokerUnavailable",
    "CheckpointTooLarge",
    "DeviceError",
    "EmbeddedRedisError",
    "EngineError",
    "EngineUnavailable",
    "InvalidCheckpoint",
    "InvalidSetting",
    "InvalidTask",
    "InvalidValue",
    "MeshError",
    "ModelNotFound",
    "NodeNameTaken",
    "PayloadTooLarge",
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


class DeviceError(MeshError):
    """Hardware could not be read."""


class EngineError(MeshError):
    """What runs models failed."""


class EngineUnavailable(EngineError):
    """The engine does not answer, or cannot do this kind of work."""


class ModelNotFound(EngineError):
    """The engine has no such model."""
