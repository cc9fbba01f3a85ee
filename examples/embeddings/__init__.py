"""Two thousand embeddings on GPU Mesh: split over all devices, with progress shown.

export PYTHONPATH=examples
gpu-mesh up &
python -m embeddings 2000
"""
