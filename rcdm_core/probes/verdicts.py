"""From numbers to words: when a response counts as following, and what may be concluded when it does not.

The rule is that absence of evidence is no verdict. Samples that do not follow a change show a blindness of the
representation only when h itself hardly moves, or when a linear readout of h does not follow either and there is
reason to trust it: the generator does draw it from h in other pictures, or h holds nothing of the attribute linearly
there, more pictures would not change that, and the generator is heard to use h and varies as pictures do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rcdm_core.metrics.bootstrap import Estimate

FOLLOWS = 0.5  # the interval's lower end is at least this
IGNORES = 0.25  # the interval's upper end is at most this
SOME, NOT_ALL = 0.1, 0.75  # an interval between these is a response in part
STILL = 0.02  # of the distance of two random pictures: h that moves less does not tell the pictures apart
ALONE = 0.15  # either way: what stands for the interval where there are too few pictures for one
HELD = 0.25  # R² of the readout from which on h holds the attribute
FAR = (0.5, 2.0)  # the samples' variance over the pictures': an interval outside of this is a generator's own limit
HEARD = 0.05  # of h itself that comes back in the samples' h: a generator is heard to use h if the interval is above
SAME_H = "h is the same for all pictures"  # why an attribute is dropped whatever its intervals are
DOUBLINGS = 2  # of the readout's pictures: one that may not stay low that long, at its present gain, is no evidence


@dataclass(frozen=True)
class Verdict:
    """code: of `judge` or `judge_retention`. why: the reason, to be put after the code.

    judge: follows, partly, ignores, generator, cannot tell. judge_retention: kept, nonlinear, dropped, generator,
    cannot tell.
    """

    code: str
    why: str


def band(response: Estimate) -> str:
    """ "high", "low", "part" or "unclear": where the interval lies, or the value and a margin where there is none.

    "low" is close to 0: what goes against the picture, clearly below 0, comes from h as much as what goes with it.
    """
    low, high = _low(response), _high(response)
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
    random pairs. Of pictures that nobody transformed: r2 of the readout, and growth, what the second half of its
    pictures added to that; drawn, variance and heard as rendered, variance and heard in `Retained`.
    """

    rendered: Estimate
    decoded: Estimate | None = None
    dh: Estimate | None = None
    r2: float | None = None
    growth: float = 0.0
    drawn: Estimate | None = None
    variance: Estimate | None = None
    heard: Estimate | None = None


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
    if evidence.r2 is not None and evidence.r2 < HELD:
        why = f"neither the samples ({rendered.value:.2f}) nor a linear readout of h ({decoded.value:.2f}) follow"
        doubt = _untrusted(evidence.variance) or _starved(evidence.r2, evidence.growth) or _unheard(evidence.heard)
        return Verdict("cannot tell", f"{why}, but {doubt}") if doubt else Verdict("ignores", why)
    if evidence.drawn is not None and band(evidence.drawn) == "high":
        drawn = f"the generator draws it from h in other pictures ({evidence.drawn.value:.2f})"
        return Verdict("ignores", f"{drawn}, but the samples do not follow this change ({rendered.value:.2f})")
    return Verdict("cannot tell", "h holds it in other pictures, but the generator does not draw it from h")


@dataclass(frozen=True)
class Retained:
    """What is known about one attribute over untransformed pictures.

    rendered  retention of the samples; None where they have too little of the attribute to measure it
    decodable R² of the readout
    agreement what h holds at the least if the samples' means are right; variance: of the samples over the pictures'
    growth    what the second half of the readout's pictures added to its R²
    heard     how much of h itself comes back in the samples' h; None where h is the same for all pictures
    """

    rendered: Estimate | None
    decodable: Estimate
    agreement: Estimate | None = None
    variance: Estimate | None = None
    growth: float = 0.0
    heard: Estimate | None = None


def judge_retention(found: Retained) -> Verdict:
    """Whether h keeps an attribute.

    Samples that do not bring it back speak against h only where they vary as pictures do and the generator is heard to
    use h, and a readout that fails only where more pictures would not help it.
    """
    rendered, decodable = found.rendered, found.decodable
    if found.heard is None:
        return Verdict("dropped", SAME_H)
    # a readout that is worse than the mean has learnt nothing: of an R² the upper end alone counts
    read = "low" if _high(decodable) <= IGNORES else band(decodable)
    if rendered is None:
        if read == "high":
            return Verdict("generator", f"a readout of h has it ({decodable.value:.2f}), most samples have none of it")
        return Verdict("cannot tell", "most samples have none of it to be measured")
    shown = band(rendered)
    numbers = f"samples {rendered.value:.2f}, readout {decodable.value:.2f}"
    if read == "high" and shown == "high":
        return Verdict("kept", f"the samples bring it back and a readout of h has it ({numbers})")
    if read == "high" and _high(rendered) < FOLLOWS:
        return Verdict("generator", f"a readout of h has it, the samples do not bring it back ({numbers})")
    if read == "high":
        return Verdict("cannot tell", f"a readout of h has it, but it is open whether the samples do ({numbers})")
    limit = _untrusted(found.variance)
    if shown == "high":
        if _high(decodable) >= FOLLOWS:
            return Verdict(
                "cannot tell", f"the samples bring it back, but the readout is neither high nor low ({numbers})"
            )
        if limit:
            return Verdict("cannot tell", f"the samples alone have it, but {limit} ({numbers})")
        if found.agreement is None or not _low(found.agreement) >= FOLLOWS:  # NaN is no evidence
            return Verdict("cannot tell", f"the samples alone have it, but may exaggerate what h has of it ({numbers})")
        return Verdict("nonlinear", f"the samples bring it back, a linear readout of h does not have it ({numbers})")
    if shown == "low" and read == "low":
        doubt = limit or _starved(_high(decodable), found.growth) or _unheard(found.heard)
        if doubt:
            return Verdict("cannot tell", f"neither samples nor readout have it, but {doubt} ({numbers})")
        return Verdict("dropped", f"neither the samples nor a readout of h have it ({numbers})")
    if read == "low" and shown == "unclear" and _high(rendered) <= IGNORES:
        why = "the samples may go against the picture, which takes an h that tells it"
        return Verdict("cannot tell", f"{why} ({numbers})")
    if shown == read == "part":
        return Verdict("cannot tell", f"some of it is kept: too much for dropped and too little for kept ({numbers})")
    return Verdict("cannot tell", f"it is neither clearly there nor clearly not ({numbers})")


def _low(estimate: Estimate) -> float:
    return estimate.low if estimate.low is not None else estimate.value - ALONE


def _high(estimate: Estimate) -> float:
    return estimate.high if estimate.high is not None else estimate.value + ALONE


def _untrusted(variance: Estimate | None) -> str:
    """Why what the samples do not show is no evidence; empty where it is."""
    if variance is None:
        return "their variance is not known"
    if _high(variance) < FAR[0] or _low(variance) > FAR[1]:
        return f"the samples vary {variance.value:.2f} times as much as pictures do: the generator is the limit"
    return ""


def _starved(r2: float, growth: float) -> str:
    """Why a readout that fails is no evidence; empty where it is."""
    return "the readout gets better with more pictures" if r2 + DOUBLINGS * max(0.0, growth) > IGNORES else ""


def _unheard(heard: Estimate | None) -> str:
    """Why samples that do not follow h are no evidence about h; empty where they are."""
    if heard is None:
        return "it is not known whether the generator uses h"
    return "" if _low(heard) > HEARD else "the generator is not seen to use h at all"


def in_words(verdicts: dict[str, Verdict]) -> str:
    """A row's sentence from what it is about (in words) -> verdict."""
    phrases = {
        "follows": "follows: the representation keeps {}",
        "partly": "partly: the representation keeps some of {}",
        "ignores": "ignores: the representation does not keep {}",
        "generator": "the generator is the limit for {}: h has it",
        "cannot tell": "cannot tell for {}",
    }
    return phrased({name: verdict.code for name, verdict in verdicts.items()}, phrases)


def phrased(codes: Mapping[str, str], phrases: Mapping[str, str]) -> str:
    """Each phrase, in their order, with the names whose code it is for; codes: name -> code."""
    about = {code: [name for name, own in codes.items() if own == code] for code in phrases}
    return "; ".join(phrase.format(listed(about[code])) for code, phrase in phrases.items() if about[code])


def listed(words: list[str]) -> str:
    """a, b and c"""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
