"""What the flows do, without Prefect: plain functions over `refine_ops`, callable in any process."""
