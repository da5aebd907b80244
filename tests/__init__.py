"""Every test of FastCache; the folders say what kind."""
