"""What a backtest's figures allow to be said, in words: nothing where n is too small, and who is beaten by it.

No figure is made here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from v7_pipeline.backtest.figures import Figures, Rival
from v7_pipeline.backtest.risk import MIN_DAYS

__all__ = ["SURE", "Standing", "Verdict", "verdict"]

Word = Literal["none", "profitable", "losing", "indistinguishable"]
Against = Literal["beats", "is beaten by", "cannot be told from", "too few days against"]

#: PSR, DSR and the share of random entries from which on something is called more than chance.
SURE = 0.95
#: Shorter stops are the daily limit at work, or chance.
STOPPED_DAYS = 1.5
_TOLD = 6
_SHORT: dict[Against, str] = {
    "beats": "beats",
    "is beaten by": "is beaten by",
    "cannot be told from": "cannot be told from",
    "too few days against": "has too few days to compare with",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """How the strategy stands to one baseline: a word, and the sentence with its figures."""

    name: str
    word: Against
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` in one word, `headline` in one sentence; `standings` against each baseline; `sentences`: what else."""

    word: Word
    headline: str
    standings: tuple[Standing, ...]
    sentences: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What a page lists below the headline: a sentence for each of the first baselines, one for all of the others.

        Leaving each theory out in turn makes ten more baselines, of which nobody reads ten sentences.
        """
        told, others = self.standings[:_TOLD], self.standings[_TOLD:]
        words = {one.word: [other.name for other in others if other.word == one.word] for one in others}
        rest = "; ".join(f"it {_SHORT[word]} {', '.join(names)}" for word, names in sorted(words.items()))
        more = f"Of the others, {rest}. Of {len(self.standings)} comparisons one in twenty looks sure by chance."
        return (*(one.sentence for one in told), *([more] if rest else []), *self.sentences)

    def markdown(self) -> str:
        """Headline and lines as markdown."""
        return "\n".join([f"**{self.headline}**", "", *(f"- {line}" for line in self.lines)]) + "\n"


def verdict(found: Figures) -> Verdict:
    """The verdict of these figures."""
    word, headline = _headline(found)
    told = (
        *found.material.notes,
        _stopped(found),
        _random(found),
        _trials(found),
        _doubt(found),
        _firm(found),
        _gaps(found),
        _off(found),
        _demo(found),
    )
    return Verdict(word, headline, tuple(_standing(one) for one in found.rivals), tuple(s for s in told if s))


def _headline(found: Figures) -> tuple[Word, str]:
    told, r = found.told, found.item("mean_r")
    days = len(found.daily)
    if told.verdict == "too few":
        return "none", (
            f"No verdict: {told.closed} closed trades are worth {r.n_eff:.1f} independent ones, and fewer than "
            f"{told.minimum_n} say nothing."
        )
    figures = f"{r.value:+.3f} R a trade (95 % in {r.lower:+.3f} … {r.upper:+.3f}, n = {r.n}, worth {r.n_eff:.0f})"
    if told.verdict == "losing":
        return "losing", f"It loses after costs: {figures}."
    if told.verdict == "indistinguishable from zero":
        return "indistinguishable", f"Indistinguishable from zero after costs: {figures}."
    needed = found.item("min_trl")
    if not needed.known or days < needed.value:
        length = f"{needed.value:,.0f} days" if needed.known else "a longer one"
        return "none", (
            f"No verdict: {figures} looks profitable, but the record of {days} days is too short for its Sharpe ratio; "
            f"it takes {length} to say so at 95 %."
        )
    return "profitable", f"Profitable after costs on this span: {figures}."


def _standing(rival: Rival) -> Standing:
    """Against one baseline: the mean of the daily differences and whether its interval leaves out 0."""
    gap = rival.difference
    if gap.n < MIN_DAYS or not gap.has_interval:
        word: Against = "too few days against"
        text = f"{gap.n} days are too few to compare with {rival.name}; at least {MIN_DAYS} are needed."
        return Standing(rival.name, word, text[0].upper() + text[1:])
    if gap.lower > 0:
        word, says = "beats", "It beats"
    elif gap.upper < 0:
        word, says = "is beaten by", "It is beaten by"
    else:
        word, says = "cannot be told from", "It does not beat, nor is it beaten by,"
    ends = f"{gap.lower * 1e4:+.1f} … {gap.upper * 1e4:+.1f}"
    text = f"{says} {rival.name}: {gap.value * 1e4:+.1f} basis points a day (95 % in {ends}, n = {gap.n} days)."
    return Standing(rival.name, word, text)


def _stopped(found: Figures) -> str:
    """Whether the loss limits ended it: what came after is no trading, not a calm market."""
    item = found.item("stopped_days")
    if item.value < STOPPED_DAYS:
        return ""
    return (
        f"The loss limits ended its trading: in the last {item.value:.1f} days nothing was accepted ({item.note}). "
        "Daily figures count those days as days without a return."
    )


def _random(found: Figures) -> str:
    drawn = found.material.random_entry
    if drawn is None:
        return "Random entry was not drawn, so nothing says whether its entries are better than chance."
    share = drawn.percentile_mean_r
    place = f"By mean R it lies at percentile {share * 100:.1f} of {drawn.draws:,} random entries with the same plans"
    if found.told.verdict == "too few":
        return f"{place} (n = {drawn.trades} trades, too few to conclude from)."
    if share >= SURE:
        return f"{place}: its entries were better than chance (n = {drawn.trades} trades)."
    if share <= 1 - SURE:
        return f"{place}: its entries were worse than chance (n = {drawn.trades} trades)."
    return f"{place}: its entries cannot be told from chance (n = {drawn.trades} trades)."


def _trials(found: Figures) -> str:
    count, dsr, pbo = (found.item(name) for name in ("trials", "dsr", "pbo"))
    if not count.known:
        return "No other configuration was recorded; what was tried without being recorded is not held against it."
    if count.value < 2:
        return "It is the only configuration that was tried on this span, as far as the system has counted."
    told = f"It is one of {count.value:.0f} configurations tried"
    if dsr.known:
        enough = "which is enough" if dsr.value >= SURE else f"below the {SURE:.2f} that would be enough"
        told += f": the deflated Sharpe probability is {dsr.value:.3f}, {enough}"
    return told + (f"; the probability that the best of them is so by chance is {pbo.value:.2f}." if pbo.known else ".")


def _doubt(found: Figures) -> str:
    count, low, high = (found.item(name) for name in ("ambiguous", "pessimistic_r", "optimistic_r"))
    if not count.value:
        return ""
    if not (low.known and high.known):
        return f"{count.value:.0f} of {count.n} trades had both barriers inside one candle; the stop was taken."
    return (
        f"{count.value:.0f} of {count.n} trades had both barriers inside one candle: the truth lies between "
        f"{low.value:+.3f} R and {high.value:+.3f} R a trade, and the lower one is told here."
    )


def _firm(found: Figures) -> str:
    own, chance = found.item("target_progress"), found.item("p_pass")
    told = f"On the firm's account {own.note}"
    if chance.known:
        ends = f"95 % in {chance.lower:.0%} … {chance.upper:.0%}"
        told += f"; of accounts drawn from its days {chance.value:.0%} pass ({ends})"
    return f"{told}."


def _gaps(found: Figures) -> str:
    missing = int(found.gaps.symbols["missing"].sum())
    if not missing:
        return ""
    due = int(found.gaps.symbols["due"].sum())
    more = f", {found.gaps.count} silences longer than a quarter of an hour among them" if found.gaps.count else ""
    return f"{missing:,} of {due:,} candles were missing{more}."


def _off(found: Figures) -> str:
    gated = found.material.simulation.gated
    off = sorted({name for text in gated["gates_off"].unique() for name in str(text or "").split(",") if name})
    return f"GATES OFF: {', '.join(off)}." if off else ""


def _demo(found: Figures) -> str:
    return "The candles are simulated: nothing follows for a real market." if found.material.is_demo else ""
