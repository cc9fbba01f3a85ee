# syntax=docker/dockerfile:1
# The image of every mesh service of docker-compose.yml but Redis; what it runs is the command. See docs/containers.md.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/gpu-mesh
# The dependencies first: a change of our own code leaves this layer as it is.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && /opt/gpu-mesh/bin/pip install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE beat_schedule.py ./
COPY gpu_mesh gpu_mesh
COPY workers workers
RUN /opt/gpu-mesh/bin/pip install --constraint constraints.txt --no-deps . \
    && /opt/gpu-mesh/bin/pip uninstall --yes pip

FROM python:3.11-slim
# Of the NVIDIA driver CUDA and NVML; which GPUs a container sees says compose.
ENV PATH=/opt/gpu-mesh/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    GPU_MESH_STATE_DIR=/var/lib/gpu-mesh
# A new volume takes the folder's owner over.
RUN useradd --system --uid 10001 --home-dir /var/lib/gpu-mesh --shell /usr/sbin/nologin gpu-mesh \
    && install --directory --owner=gpu-mesh --mode=0700 /var/lib/gpu-mesh \
    && install --directory /app /scripts
COPY --from=build /opt/gpu-mesh /opt/gpu-mesh
USER 10001
# An application's modules are mounted here; GPU_MESH_INCLUDE names them.
WORKDIR /app
CMD ["gpu-mesh", "worker"]
