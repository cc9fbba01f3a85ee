"""Two thousand embeddings on GPU Mesh: split over all devices, with progress shown.

export PYTHONPATH=examples
GPU_MESH_PEAK_HOURS=none gpu-mesh up &    # else it waits from 09:00 to 18:00
python -m embeddings 2000
"""
