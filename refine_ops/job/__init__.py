"""Job: manifest, plan, worker, ledger, launch -- how many items become outcomes, whatever is killed."""
