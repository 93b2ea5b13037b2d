"""Orders: who has bought what."""

from meshlite.services.orders.api import create_app

__all__ = ["create_app"]
