"""What a machine of the mesh runs."""
