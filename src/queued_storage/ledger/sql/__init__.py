"""How the ledger executes its statements: the clock, outages, cached texts, batches."""
