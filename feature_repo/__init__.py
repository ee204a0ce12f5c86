"""Features: what Feast serves out of gold, to training as of a moment and to models online."""
