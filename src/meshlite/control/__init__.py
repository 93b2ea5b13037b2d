"""The control plane: what is running, how it fares. It has a port of its own and only reads what the mesh says."""
