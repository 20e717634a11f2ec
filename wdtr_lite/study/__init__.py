"""Grids of networks, and what is asked of them."""
