"""The control plane: what is running, how it fares. It has a port of its own, and changes what it is asked to."""
