"""REINFORCE in one file, one step at a time: the textbook loop, without tfpg.

A neural network plays CartPole. Every step records the gradient that makes the chosen action more
likely. After a batch of episodes, each gradient is multiplied by the return that followed, and
their mean updates the network. Read this first: tfpg computes the same, hundreds of times faster,
for any environment and any Keras model.

    python scripts/reinforce_in_one_file.py --iterations 10

Source: Williams, 1992, https://doi.org/10.1007/BF00992696. The loop follows the exercise in
Géron, "Hands-On Machine Learning", 3rd edition, 2022, chapter 18.
"""

import argparse

import gymnasium as gym
import keras
import numpy as np
import tensorflow as tf


def make_model(seed):
    """Return a policy for CartPole: 4 observations in, the probability of action 1 (right) out."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(20, activation="elu"),
            keras.layers.Dense(10, activation="elu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def play_one_step(env, observation, model, rng):
    """Act once. Return the result and the gradient of the action's log-probability."""
    with tf.GradientTape() as tape:
        right = model(observation[np.newaxis])[0, 0]
        action = int(rng.random() < right)
        log_prob = tf.math.log(right if action == 1 else 1.0 - right)
    gradients = tape.gradient(log_prob, model.trainable_variables)
    observation, reward, terminated, truncated, _ = env.step(action)
    return observation, float(reward), terminated or truncated, gradients


def play_episodes(env, model, max_steps, rngs):
    """Play one episode with each generator. Return their rewards and gradients."""
    all_rewards, all_gradients = [], []
    for rng in rngs:
        rewards, gradients = [], []
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        for _ in range(max_steps):
            observation, reward, ended, step_gradients = play_one_step(env, observation, model, rng)
            rewards.append(reward)
            gradients.append(step_gradients)
            if ended:
                break
        all_rewards.append(rewards)
        all_gradients.append(gradients)
    return all_rewards, all_gradients


def discount(rewards, gamma):
    """Return the discounted return of each step: its reward plus gamma times the next return."""
    returns = np.array(rewards, dtype=float)  # not int, which would truncate
    for step in range(len(returns) - 2, -1, -1):
        returns[step] += gamma * returns[step + 1]
    return returns


def discount_and_standardize(all_rewards, gamma):
    """Return the returns of all episodes, minus their mean, divided by their standard deviation."""
    all_returns = [discount(rewards, gamma) for rewards in all_rewards]
    flat = np.concatenate(all_returns)
    std = flat.std()
    return [(returns - flat.mean()) / (std if std > 0 else 1.0) for returns in all_returns]


def train(env, model, optimizer, iterations, episodes, max_steps, gamma, seed):
    """Train the model in place. Return the mean episode return of every iteration."""
    mean_returns = []
    for iteration in range(iterations):
        first = iteration * episodes
        rngs = [np.random.default_rng([seed, first + i]) for i in range(episodes)]
        all_rewards, all_gradients = play_episodes(env, model, max_steps, rngs)
        all_weights = discount_and_standardize(all_rewards, gamma)
        weighted = [
            [weight * gradient for gradient in gradients]
            for weights, episode in zip(all_weights, all_gradients, strict=True)
            for weight, gradients in zip(weights, episode, strict=True)
        ]
        # The optimizer minimizes, but the log-probabilities of good actions must increase.
        mean_gradients = [-tf.reduce_mean(steps, axis=0) for steps in zip(*weighted, strict=True)]
        optimizer.apply_gradients(zip(mean_gradients, model.trainable_variables, strict=True))
        mean_returns.append(float(np.mean([sum(rewards) for rewards in all_rewards])))
        print(f"iteration {iteration + 1}/{iterations}: mean return {mean_returns[-1]:.1f}")
    return mean_returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--episodes", type=int, default=10, help="per iteration")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--gamma", type=float, default=0.95)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()

    cartpole = gym.make("CartPole-v1")
    train(
        cartpole,
        make_model(args.seed),
        keras.optimizers.Adam(args.learning_rate),
        args.iterations,
        args.episodes,
        args.max_steps,
        args.gamma,
        args.seed,
    )
    cartpole.close()
