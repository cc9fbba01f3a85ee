"""An application on GPU Mesh: a support desk that answers customers and sums up deals."""
