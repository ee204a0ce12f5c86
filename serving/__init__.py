"""The approval model behind an API."""
