"""The settings by what they are about; `model.Settings` is all of them together.

Each is a model that nobody makes by itself. Every process pays for them as it starts: only the whole has a validator
(`defer_build`), and annotations are no strings, which pydantic would evaluate for each class.
"""
