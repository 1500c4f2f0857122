"""Report: drift measured from published bytes, kept as Parquet and JSON, shown as HTML. Never imports torch."""
