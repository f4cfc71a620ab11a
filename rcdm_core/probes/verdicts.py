"""From numbers to words: when a response counts as following, and what may be concluded when it does not.

The rule is that absence of evidence is no verdict. Samples that do not follow a change show a blindness of the
representation only when h itself hardly moves, or when a linear readout of h does not follow either and there is
reason to trust it: h holds nothing of the attribute linearly in other pictures, or the generator does draw it from h.
"""

from __future__ import annotations

from dataclasses import dataclass

from rcdm_core.metrics.bootstrap import Estimate

FOLLOWS = 0.5  # the interval's lower end is at least this
IGNORES = 0.25  # the interval's upper end is at most this
SOME, NOT_ALL = 0.1, 0.75  # an interval between these is a response in part
STILL = 0.02  # of the distance of two random pictures: h that moves less does not tell the pictures apart
ALONE = 0.15  # either way: what stands for the interval where there are too few pictures for one
HELD = 0.25  # R² of the readout from which on h holds the attribute


@dataclass(frozen=True)
class Verdict:
    """code: follows, partly, ignores, generator, cannot tell. why: the reason, to be put after the code."""

    code: str
    why: str


def band(response: Estimate) -> str:
    """ "high", "low", "part" or "unclear": where the interval lies, or the value and a margin where there is none."""
    low = response.low if response.low is not None else response.value - ALONE
    high = response.high if response.high is not None else response.value + ALONE
    if low >= FOLLOWS:
        return "high"
    if low >= -IGNORES and high <= IGNORES:
        return "low"
    if low >= SOME and high <= NOT_ALL:
        return "part"
    return "unclear"


@dataclass(frozen=True)
class Evidence:
    """What is known about one attribute under one transform; None where that could not be computed.

    rendered: response of the samples. decoded: response of a linear readout of h. dh: ‖h(Tx) − h(x)‖ in distances of
    random pairs. r2: of the readout, on pictures that nobody transformed. drawn: rendered retention there.
    """

    rendered: Estimate
    decoded: Estimate | None = None
    dh: Estimate | None = None
    r2: float | None = None
    drawn: Estimate | None = None


def judge(evidence: Evidence) -> Verdict:
    """What a response says about the representation."""
    rendered, decoded, dh = evidence.rendered, evidence.decoded, evidence.dh
    shown = band(rendered)
    if shown == "high":
        return Verdict("follows", f"the samples make {rendered.value:.2f} of the change")
    if shown == "part":
        return Verdict("partly", f"the samples make {rendered.value:.2f} of the change")
    if shown == "unclear":
        spread = "" if rendered.low is None else f", interval {rendered.low:.2f} to {rendered.high:.2f}"
        return Verdict("cannot tell", f"a response of {rendered.value:.2f}{spread} is neither high nor low")
    read = band(decoded) if decoded is not None else None
    if decoded is not None and read in ("high", "part"):
        why = f"a linear readout of h follows ({decoded.value:.2f}), the samples do not ({rendered.value:.2f})"
        return Verdict("generator", why)
    if dh is not None and (dh.high if dh.high is not None else dh.value) <= STILL:
        return Verdict("ignores", f"h itself hardly moves ({dh.value:.3f} of a random pair's distance)")
    if decoded is None or read == "unclear":
        return Verdict("cannot tell", "the samples do not follow, but h moves: the generator may be the limit")
    if evidence.r2 is None or evidence.r2 < HELD:
        why = f"neither the samples ({rendered.value:.2f}) nor a linear readout of h ({decoded.value:.2f}) follow"
        return Verdict("ignores", why)
    if evidence.drawn is not None and band(evidence.drawn) == "high":
        drawn = f"the generator draws it from h in other pictures ({evidence.drawn.value:.2f})"
        return Verdict("ignores", f"{drawn}, but the samples do not follow this change ({rendered.value:.2f})")
    return Verdict("cannot tell", "h holds it in other pictures, but the generator does not draw it from h")


def in_words(verdicts: dict[str, Verdict]) -> str:
    """A row's sentence from what it is about (in words) -> verdict."""
    phrases = {
        "follows": "follows: the representation keeps {}",
        "partly": "partly: the representation keeps some of {}",
        "ignores": "ignores: the representation does not keep {}",
        "generator": "the generator is the limit for {}: h has it",
        "cannot tell": "cannot tell for {}",
    }
    parts = []
    for code, phrase in phrases.items():
        about = [name for name, verdict in verdicts.items() if verdict.code == code]
        if about:
            parts.append(phrase.format(listed(about)))
    return "; ".join(parts)


def listed(words: list[str]) -> str:
    """a, b and c"""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
