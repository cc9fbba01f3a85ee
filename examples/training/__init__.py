"""A training on GPU Mesh: a script of the operator's that reports progress, saves, and goes on where it was.

    export PYTHONPATH=examples GPU_MESH_SCRIPTS_DIR=$PWD/examples/training/scripts
    GPU_MESH_PEAK_HOURS=none gpu-mesh up &    # else it waits from 09:00 to 18:00
    python -m training 30

Kill the worker in the middle, or stop the mesh and start it again: the training goes on, and its result is the same.
"""
