"""Server-sent events: what a task says while it says it, and what happens in the mesh."""
