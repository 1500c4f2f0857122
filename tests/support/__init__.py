"""What several test modules share; `from tests.support.x import y` is the one way to it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
