"""Agents: one algorithm a file, on the shell of `tfpg.agents.agent.Agent`."""
