"""Where each file is and what is to be done; the only statements that change it."""
