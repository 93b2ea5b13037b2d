"""Users: who may order."""

from meshlite.services.users.api import create_app

__all__ = ["create_app"]
