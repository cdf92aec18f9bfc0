"""The version number that commands carry: the place of a release in RocketMQ's list of releases.

Peers switch features on by it, so we name the release whose behaviour we have.

Source: `MQVersion`, RocketMQ 5.3.3.
"""

from __future__ import annotations

from typing import Final

V4_9_7: Final = 407
V5_3_3: Final = 479

CURRENT_VERSION: Final = V5_3_3
