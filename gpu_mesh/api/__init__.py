"""The mesh over HTTP: REST, server-sent events, metrics (SPEC A1, A2, A4). `serving.serve` runs it."""
