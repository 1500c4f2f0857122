"""Planning: manifest to plan, what remains, canary, orders. Never imports torch."""
