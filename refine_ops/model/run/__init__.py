"""Run: one batch through the networks, within the device's memory."""
