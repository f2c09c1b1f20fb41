"""What the statements to the ledger are made of."""
