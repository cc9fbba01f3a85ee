"""An application that works through `submit` and `Mesh`, typed throughout: `make check` reads it with mypy."""
