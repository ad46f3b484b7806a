"""The words every analyst shares: question, answer, decision, the two modes' thresholds and the reason codes.

How an answer is found belongs to rules.py and deepseek.py; what a decision must satisfy to be a signal, to gates/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

__all__ = [
    "AGGRESSIVE",
    "ANALYST_RESTING",
    "ASKED_AGAIN",
    "ASKS_NOBODY",
    "BUDGET_DAY",
    "BUDGET_MONTH",
    "CONSERVATIVE",
    "NOT_CONFIRMED",
    "NOT_IN_LEDGER",
    "NOT_SAMPLED",
    "NO_MODEL",
    "NO_VOTE",
    "READINGS_MISSING",
    "Analyst",
    "AnalystError",
    "Answer",
    "BookContext",
    "Decision",
    "MarketContext",
    "Mode",
    "Question",
    "ReferenceContext",
    "Side",
    "asked_again",
    "call_id_of",
    "mode_of",
    "require_aware",
]

Side = Literal["BUY", "SELL", "HOLD"]
Status = Literal["answered", "abstained", "skipped"]

# Reason codes of decisions that were not answered; reply.py and deepseek.py add theirs.
# Analysts that reach no service: their decisions are no calls.
ASKS_NOBODY = ("rules", "replay")

# What ends the name under which an analyst is asked outside of scans, to learn what its answers rest on or what they
# would have come to: those decide nothing.
ASKED_AGAIN = "-(unchanged|backtest|without-[a-z_]+)$"

READINGS_MISSING = "READINGS_MISSING"
BUDGET_DAY = "BUDGET_DAY"
BUDGET_MONTH = "BUDGET_MONTH"
ANALYST_RESTING = "ANALYST_RESTING"
NOT_IN_LEDGER = "NOT_IN_LEDGER"
NOT_SAMPLED = "NOT_SAMPLED"
NOT_CONFIRMED = "NOT_CONFIRMED"
NO_MODEL = "NO_MODEL"
NO_VOTE = "NO_VOTE"


class AnalystError(RuntimeError):
    """The analyst cannot work as it is set up; one sentence, never with a secret in it."""


@dataclass(frozen=True, slots=True)
class Mode:
    """The thresholds a mode states. `min_strength`: |combined score|; `min_confidence`: of a BUY or SELL."""

    name: str
    min_strength: float
    min_confidence: float
    min_agreeing: int


# The strengths are quantiles of |combined score| on simulated random walks, Gaussian, t4 and volatility-clustered, with
# none, a tenth and three tenths of quiet minutes: conservative lets 1 scan in 31 … 43 through, aggressive 1 in 20 … 26.
CONSERVATIVE = Mode("conservative", min_strength=0.20, min_confidence=0.60, min_agreeing=3)
AGGRESSIVE = Mode("aggressive", min_strength=0.166, min_confidence=0.55, min_agreeing=2)


def mode_of(aggressive: bool) -> Mode:
    """The mode that the setting names."""
    return AGGRESSIVE if aggressive else CONSERVATIVE


@dataclass(frozen=True, slots=True)
class BookContext:
    """The venue's order book: best prices in USD, depths in USD within 0.1 % of the mid price.

    A depth is None where the levels that came end before that.
    """

    best_bid: float
    best_ask: float
    bid_depth_usd: float | None
    ask_depth_usd: float | None

    @property
    def spread_bps(self) -> float:
        """Ask minus bid over the mid price, in basis points."""
        return 20_000 * (self.best_ask - self.best_bid) / (self.best_ask + self.best_bid)

    @property
    def imbalance(self) -> float | None:
        """(bids − asks) ÷ (bids + asks) of the depths: −1 … 1; None where they are not known."""
        bids, asks = self.bid_depth_usd, self.ask_depth_usd
        return None if bids is None or asks is None or bids + asks <= 0 else (bids - asks) / (bids + asks)


@dataclass(frozen=True, slots=True)
class ReferenceContext:
    """CoinGecko's figures over many venues, in USD, and how old they were when they came, in seconds."""

    price_usd: float
    market_cap_usd: float | None
    volume_24h_usd: float | None
    age_s: float | None


@dataclass(frozen=True, slots=True)
class MarketContext:
    """What else was known of a product when the question was made; None is missing."""

    order_book: BookContext | None = None
    coingecko: ReferenceContext | None = None


@dataclass(frozen=True)
class Question:
    """All that an analyst may know of one symbol at one scan.

    `readings` is a theory_features row (all theory columns; None or NaN is missing) and `explanations` one sentence a
    theory. Prices and the quote increment are in USD; `change_24h` and `observed_share` are fractions, `price_age_s` is
    in seconds, `reward_risk` the least reward:risk of a plan net of costs, `room_usd` what the account's limits leave.
    """

    signal_id: str
    symbol: str
    strategy: str
    as_of: datetime
    features_as_of: datetime
    readings: Mapping[str, float | None]
    explanations: Mapping[str, str]
    market_price: float
    price_age_s: float
    quote_increment: float
    change_24h: float | None
    observed_share: float | None
    horizon_minutes: int
    reward_risk: float
    open_position: str | None
    room_usd: float | None
    aggressive: bool
    demo: bool
    context: MarketContext = MarketContext()

    def __post_init__(self) -> None:
        require_aware(self.as_of, "as_of")
        require_aware(self.features_as_of, "features_as_of")


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision in full. Prices are in USD and missing for HOLD."""

    side: Side
    confidence: float
    entry_price: float | None
    stop_price: float | None
    target_price: float | None
    horizon_minutes: int | None
    reasoning: str
    key_theories: tuple[str, ...]
    would_change_my_mind: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of one question: an answer, or the reason why there is none. `cost_usd` is what this asking cost.

    `ungrounded` has the numbers of the reasoning that the prompt does not hold; None where nobody looked.
    """

    signal_id: str
    status: Status
    status_reason: str | None
    answer: Answer | None
    call_id: str | None
    prompt_version: str | None
    cost_usd: float
    analyst: str
    ungrounded: tuple[str, ...] | None = None


class Analyst(Protocol):
    """Anyone who decides. A failure to decide is a reason code; a wrong set-up raises AnalystError."""

    @property
    def name(self) -> str:
        """As stored in the `analyst` columns."""
        ...

    @property
    def worst_case_usd(self) -> float:
        """USD that one question may cost at most; 0 where asking is free."""
        ...

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        """One decision a question, in the questions' order."""
        ...


def call_id_of(analyst: str, signal_id: str) -> str:
    """The ledger's identity of one question to one analyst."""
    return f"{analyst}-{signal_id}"


def asked_again(analyst: str, theory: str | None) -> str:
    """The name under which `analyst` is asked without `theory`; None: asked the same once more."""
    return f"{analyst}-unchanged" if theory is None else f"{analyst}-without-{theory}"


def require_aware(instant: datetime, name: str) -> None:
    """Refuse a time without a zone: read in the wrong one it silently voids every window."""
    if instant.tzinfo is None:
        raise ValueError(f"{name} {instant.isoformat()} has no time zone; pass an instant in UTC")
