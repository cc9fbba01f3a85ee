"""Measurements, as ratios against stock Celery in the same run on the same Redis: `make bench`."""
