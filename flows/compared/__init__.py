"""Two runs compared: what differs between them, as records that the terminal, JSON and a page show."""
