"""Resources say more: grades, guarantees, groups, processors.

No table changes. An older Madang would stumble over such a resource, so it is to refuse the data.
"""

from __future__ import annotations

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Change nothing but the number."""
