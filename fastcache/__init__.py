"""FastCache. Kept empty: every daemon imports it and pays for what stands here."""
