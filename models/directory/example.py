"""An example of the directory document: one organization with everything that the first incident needs."""

from __future__ import annotations

from typing import Any, Final

from models.enums import Feature

EXAMPLE: Final[dict[str, list[dict[str, Any]]]] = {
    "organizations": [{"slug": "shop", "name": "Shop", "features": [Feature.INCIDENTS.value]}],
    "users": [
        {"username": "kim", "name": "Kim", "email": "kim@shop.example", "timezone": "Europe/Berlin"},
        {"username": "lee", "name": "Lee", "email": "lee@shop.example"},
    ],
    "projects": [{"organization": "shop", "slug": "checkout", "name": "Checkout"}],
    "teams": [{"organization": "shop", "slug": "oncall", "name": "On call", "projects": ["checkout"]}],
    "members": [
        {"organization": "shop", "user": "kim", "role": "owner", "teams": ["oncall"]},
        {"organization": "shop", "user": "lee", "role": "member", "teams": ["oncall"]},
    ],
}
"""It can be imported as it is. It contains no tokens, because their secrets would be published."""
