"""The demo: damaged details of real photos, and the photos themselves."""
