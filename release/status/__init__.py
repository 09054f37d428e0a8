"""Where a dataset version stands, from its areas to its release."""
