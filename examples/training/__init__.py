"""A training on GPU Mesh: a script of the operator's that reports progress, saves, and goes on where it was.

    export PYTHONPATH=examples GPU_MESH_SCRIPTS_DIR=$PWD/examples/training/scripts
    gpu-mesh up &
    python -m training 30

Kill the worker in the middle, or stop the mesh and start it again: the training goes on, and its result is the same.
"""
