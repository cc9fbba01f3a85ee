"""Scripts of the operator's: found by name, run apart from the worker, ended with all they started (SPEC T, P7)."""
