"""What a user is, and what may be said of one."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from meshlite.wire.messages import Text

Email = Annotated[
    str,
    Meta(
        description="an email address",
        max_length=200,
        pattern=r"^[^@\s\x00-\x1f\x7f\ud800-\udfff]+@[^@\s\x00-\x1f\x7f\ud800-\udfff]+$(?!\n)",
    ),
]


class User(Struct, frozen=True):
    """A user as everybody sees it."""

    id: int
    name: str
    email: str
    created_at: str


class NewUser(Struct, frozen=True, forbid_unknown_fields=True):
    """What makes a user. An email belongs to one user, whatever its case."""

    name: Text
    email: Email


class UserChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be changed of one; what is left out stays."""

    name: Text | UnsetType = UNSET
    email: Email | UnsetType = UNSET


class EmailTaken(Exception):
    """Another user has this email."""
