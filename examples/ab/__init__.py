"""Two variants of a model on two devices, asked the same things: which one is faster, which one fails (SPEC P4).

    export PYTHONPATH=examples GPU_MESH_ENGINE_URLS=gpu0=http://127.0.0.1:11434,gpu1=http://127.0.0.1:11435
    gpu-mesh up &
    python -m ab gpu0=gemma4:e4b gpu1=gemma4:12b

Each call names its device, so that each variant stays where it is loaded. To keep all other models off the two
meanwhile, start the mesh with GPU_MESH_MODELS=gpu0=gemma4:e4b,gpu1=gemma4:12b.
"""
