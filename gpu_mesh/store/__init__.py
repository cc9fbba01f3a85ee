"""The only place that knows Redis: its keys, its scripts, its errors."""
