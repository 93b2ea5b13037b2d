"""Policies for one call: each file one policy, `edge.py` the place where they meet."""
