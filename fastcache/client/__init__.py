"""How our own programs speak to servers."""
