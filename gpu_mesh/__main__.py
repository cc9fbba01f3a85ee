"""`python -m gpu_mesh` is `gpu-mesh`."""

from gpu_mesh.cli import main

if __name__ == "__main__":
    main()
