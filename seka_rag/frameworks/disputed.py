"""Places at which it is not certain that a passage stands which may be highlighted.

Where passages are equal and the chain left some out, nothing in the prompt tells which of them stands there. A place is
marked only if every passage that may stand there is trusted: so a copy never gets a highlight from what it copies. What is
known of the chain counts first: a passage that a step of it dropped does not stand anywhere that another may. And where the
text of a passage stands more often than passages explain, nothing tells which of these places is its own: the others may
belong to a passage that is not trusted, as its title, so none is marked where there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from seka_rag.frameworks.placing import Place

DISPUTED = (
    "a passage that may be highlighted has the text of one that may not, or its text stands more often than it was retrieved "
    "(in another title, say), and nothing tells which of them stands in the prompt and where, so it is not highlighted. "
    "Leave equal passages out before the retriever returns them, or in a step of its own, and write each passage once"
)


def undisputed(
    places: Mapping[int, tuple[Place, ...]], distrusted: Collection[int], dropped: Collection[int] = ()
) -> tuple[dict[int, tuple[Place, ...]], bool]:
    """The places at which it is certain that nothing stands but passages that may be highlighted.

    Args:
        places: of passages by index, in one text, as ``place_passages`` found them.
        distrusted: passages that may not be highlighted, wherever they are.
        dropped: passages that the chain is known to have left out.

    Returns:
        The places of trusted passages, and whether any was taken out because it is not certain what stands there.
    """
    order = sorted((place.start, place.start + place.length, i) for i, own in places.items() for place in own)
    kept: set[tuple[int, int, int]] = set()
    unsure = {i for i, own in places.items() if distrusted and not all(place.certain for place in own)}
    any_disputed, at = False, 0
    while at < len(order):
        until, end = at, order[at][1]
        while until < len(order) and order[until][0] < end:  # several share these characters
            end, until = max(end, order[until][1]), until + 1
        sharers = order[at:until]
        there = [entry for entry in sharers if entry[2] not in dropped] or sharers
        if not any(i in distrusted or i in unsure for _, _, i in there):
            kept.update(there)
        elif not all(i in distrusted for _, _, i in there):
            any_disputed = True
        at = until
    found = {
        i: tuple(place for place in own if (place.start, place.start + place.length, i) in kept)
        for i, own in places.items()
    }
    return {i: own for i, own in found.items() if own}, any_disputed
