"""A few optimizer steps on one batch."""

import torch


def total_loss(terms):
    """Return the sum of the normalized losses, as a single training process computes it."""
    return sum(term.total / term.count.clamp(min=1) for term in terms.values())


def train_steps(detector, batch, targets, steps, lr):
    """Train on one batch with AdamW; return the loss of each step."""
    optimizer = torch.optim.AdamW(detector.parameters(), lr=lr)
    detector.train()
    losses = []
    for _ in range(steps):
        loss = total_loss(detector(batch, targets))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses
