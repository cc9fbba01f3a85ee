"""What an application calls instead of importing tasks: `submit`, `Job`, `Mesh` (docs/sdk.md). They use what is below,
and keep nothing of their own.
"""
