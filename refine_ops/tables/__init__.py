"""Tables as people keep them: Parquet, JSON Lines and CSV, whatever tool wrote them."""
