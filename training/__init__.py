"""The approval model: train, evaluate, register."""
