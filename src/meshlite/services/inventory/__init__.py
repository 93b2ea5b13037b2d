"""Inventory: what there is, and who has a part of it."""

from meshlite.services.inventory.api import create_app

__all__ = ["create_app"]
