"""Whether a message's `mesh` header can say anything: the reference of `wrong_header` in store/lua/_describe.lua."""

from __future__ import annotations

__all__ = ["wrong_header"]


def wrong_header(mesh: object) -> str | None:
    """Why the message is malformed; None where it is not.

    Without the header, as stock producers send, it needs nothing; so it does with null, and with an empty list, which
    is how PHP and Lua write an empty object. Anything else that is no object might have meant something.
    """
    if not _is_object(mesh):
        return "its mesh header is no object"
    if isinstance(mesh, dict) and not _is_object(mesh.get("needs")):
        return "the needs of its mesh header are no object"
    return None


def _is_object(value: object) -> bool:
    return value is None or value == [] or isinstance(value, dict)
