"""What the mesh does besides moving tasks: one module a service, and the read model every interface shares."""
