"""Property tests run the small profile, unless MOTET_HYPOTHESIS names another."""

from tests.schemas import profiles

profiles.load()
