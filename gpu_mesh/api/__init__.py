"""The mesh over HTTP: REST, server-sent events, metrics (SPEC A1, A2, A4). `serving.serve` runs it.

A request's way, from outside to inside:

- `serving`, `protocol`: the server's process; slow clients and too many connections
- `guards` puts together what every request passes before a route: `edge` (how large its head is, how many there are at
  once, origins; headers of every answer), `gatekeeper` (tokens, see `known_tokens`; rates; what changes something is
  logged by `audit`), `bodies` (size, time, JSON). `refusing` answers what they refuse.
- `routes`: one module for each kind of thing; `application` includes them. Their parameters: `access` (the roles that a
  route admits), `backend` (settings, Celery app, Redis), `names`, `idempotency`. Their bodies: `models`, `examples`.
- `sending` checks and sends tasks, `waiting` holds requests that wait for an end, `events` those that go on,
  `metrics` measures, `problems` says every error.
"""
