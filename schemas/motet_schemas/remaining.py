"""What is left of a conversation's budget, extensions by humans included."""

from __future__ import annotations

from motet_schemas.budget import Budget, Remaining
from motet_schemas.conversation import Conversation
from motet_schemas.standing import (
    attempts_allowed,
    attempts_made,
    budget_of,
    deadline,
    granted,
    known_usage,
)


def allowance(state: Conversation) -> Budget:
    """Return the budget with everything that humans, or silence, added to it."""
    budget = budget_of(state)
    usd = budget.max_cost_usd
    return budget.evolve(
        max_attempts=attempts_allowed(state),
        max_tokens=budget.max_tokens * (1 + granted(state, "tokens_exhausted")),
        time_budget_s=budget.time_budget_s * (1 + granted(state, "time_exhausted")),
        max_cost_usd=None if usd is None else usd * (1 + granted(state, "cost_exhausted")),
    )


def remaining(state: Conversation) -> Remaining:
    """Return what is left now; nothing is less than 0."""
    allowed, (tokens, spent_usd) = allowance(state), known_usage(state)
    limit = deadline(state)
    left_s = (limit - state.now).total_seconds() if limit is not None and state.now is not None else 0.0
    return Remaining(
        attempts=max(0, allowed.max_attempts - attempts_made(state)),
        tokens=max(0, allowed.max_tokens - tokens),
        time_s=max(0.0, left_s),
        cost_usd=None if allowed.max_cost_usd is None else max(0.0, allowed.max_cost_usd - spent_usd),
    )


def shares_left(state: Conversation) -> dict[str, float]:
    """Return what is left of `attempts`, `tokens`, `time` and, when it is limited, `cost`, each from 0 to 1."""
    allowed, left = allowance(state), remaining(state)
    pairs: dict[str, tuple[float, float]] = {
        "attempts": (left.attempts, allowed.max_attempts),
        "tokens": (left.tokens, allowed.max_tokens),
        "time": (left.time_s, allowed.time_budget_s),
    }
    if left.cost_usd is not None and allowed.max_cost_usd is not None:
        pairs["cost"] = (left.cost_usd, allowed.max_cost_usd)
    return {name: min(1.0, have / of) if of > 0 else 0.0 for name, (have, of) in pairs.items()}
