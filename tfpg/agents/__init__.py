"""Agents: one algorithm per file, based on `tfpg.agents.agent.Agent`."""

# The algorithms by what their models output, under their names on the command line.
POLICY_GRADIENT = ("reinforce", "a2c", "ppo")
Q_LEARNING = ("dqn", "c51", "qrdqn", "rainbow", "pqn")
SQUASHED = ("sac",)
ALGORITHMS = (*POLICY_GRADIENT, *Q_LEARNING, *SQUASHED)
