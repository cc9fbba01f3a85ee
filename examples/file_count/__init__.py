"""An application on GPU Mesh: a long count over files that survives whatever kills it.

    export PYTHONPATH=examples GPU_MESH_INCLUDE=file_count.tasks
    gpu-mesh up &
    python -m file_count docs

Kill the process that counts (`gpu-mesh tasks` names the worker), or the whole worker: the count goes on where it was,
and the answer says how often it began.
"""
