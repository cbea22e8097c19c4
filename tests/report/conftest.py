"""Lets this folder's tests import `records_kit` of tests/tables."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tables"))
