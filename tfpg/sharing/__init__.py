"""Sharing what was trained: run folders, exported policies, and packs."""
