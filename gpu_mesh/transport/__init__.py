"""The claim transport lies here (DESIGN §4-§6). Until it does, the mesh uses stock Redis transport."""
