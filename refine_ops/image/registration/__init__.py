"""A reference brought into the region's pose: found, refined, checked against what the region still shows."""
