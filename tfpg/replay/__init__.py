"""Replay: what was experienced, kept to be learned from again and again."""

from tfpg.replay.buffer import ReplayBuffer, Transitions
from tfpg.replay.sum_tree import SumTree

__all__ = ["ReplayBuffer", "SumTree", "Transitions"]
