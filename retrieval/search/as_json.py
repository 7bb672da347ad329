"""Hits and explanations as JSON values: what ``retrieval query --json`` prints and what the HTTP API answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.search.grades import grade

if TYPE_CHECKING:
    from retrieval.search.explanation import Explanation
    from retrieval.search.queries import QueryFeatures
    from retrieval.search.ranking import Hit, Missing


def search_tree(
    name: str, features: "QueryFeatures", hits: Sequence["Hit"], matches: bool = False, mirror: bool = False
) -> dict[str, Any]:
    """A search and what it found.

    Args:
        name: what the query is called.
        features: the query.
        hits: best first; of `Hits` that are partial it is told what is missing.
        matches: also the inlier regions of every hit.
        mirror: also whether a hit was found by the mirror image.
    """
    box = None if features.box is None else list(features.box)
    return {
        "query": {"name": name, "box": box, "features": len(features.words)},
        "hits": [hit_tree(hit, matches, mirror) for hit in hits],
        **missing_tree(getattr(hits, "missing", ())),
    }


def missing_tree(missing: Sequence["Missing"]) -> dict[str, Any]:
    """Parts of the index that did not answer; nothing where all did."""
    if not missing:
        return {}
    return {"partial": True, "missing": [{"segments": list(part.segments), "images": part.images} for part in missing]}


def hit_tree(hit: "Hit", matches: bool = False, mirror: bool = False) -> dict[str, Any]:
    """One hit: rank, name, score, inliers and how many a stamp explains, transform; inlier regions where asked for."""
    row: dict[str, Any] = {
        "rank": hit.rank,
        "name": hit.name,
        "score": round(hit.score, 6),
        "inliers": hit.inliers,
        "stamped": hit.inliers - hit.counted,
        "transform": None if hit.transform is None else hit.transform.round(6).tolist(),
    }
    if mirror:
        row["mirrored"] = hit.mirrored
    if matches:
        row["matches"] = pairs_tree(hit.matches)
    return row


def explanation_tree(one: "Explanation") -> dict[str, Any]:
    """An explanation with all its words and matches."""
    hit, shared, placed = one.hit, one.shared, one.placement
    matches = [] if hit is None else pairs_tree(hit.matches)
    for i, match in enumerate(matches):
        match["word"] = int(one.match_words[i])
        match["bits"] = None if one.match_bits is None else int(one.match_bits[i])
        match["stamped"] = hit is not None and bool(hit.stamped[i])
    columns = (
        ("word", shared.words.tolist()),
        ("idf", shared.idf.astype(float).round(6).tolist()),
        ("images", shared.document_frequencies.tolist()),
        ("query_count", shared.query_counts.tolist()),
        ("image_count", shared.image_counts.tolist()),
        ("contribution", shared.contributions.round(9).tolist()),
        ("query_share", shared.query_shares.round(9).tolist()),
        ("image_share", shared.image_shares.round(9).tolist()),
    )
    names, values = zip(*columns, strict=True)
    return {
        "query": {"name": one.query, "box": one.box, "size": one.query_size, "features": one.query_features},
        "image": {"name": one.name, "size": one.size, "features": one.features},
        "candidates": one.candidates,
        "rank": None if hit is None else hit.rank,
        "score": None if hit is None else round(hit.score, 6),
        "inliers": 0 if hit is None else hit.inliers,
        "stamped": 0 if hit is None else hit.inliers - hit.counted,
        "grade": "words" if hit is None else grade(hit),
        "cosine": round(one.cosine, 6),
        "divisor": round(one.divisor, 6),
        "word_rank": one.word_rank,
        "listed_rank": one.listed_rank,
        "depth": one.depth,
        "in_depth": one.in_depth,
        "votes": None if one.votes is None else round(one.votes, 6),
        "votes_rank": one.votes_rank,
        "expansion": None
        if one.expansion is None
        else {
            "sources": list(one.expansion.sources),
            "votes": round(one.expansion.votes, 6),
            "significance": None if one.expansion.significance is None else round(one.expansion.significance, 6),
            "factor": round(one.expansion.factor, 6),
        },
        "words": [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)],
        "possible_pairs": shared.possible_pairs,
        "pairs": one.pairs,
        "hypotheses": one.hypotheses,
        "min_inliers": one.min_inliers,
        "mirrored": one.mirrored,
        "reason": one.reason,
        "transform": None if hit is None or hit.transform is None else hit.transform.round(6).tolist(),
        "placement": None
        if placed is None
        else {
            "scale": round(placed.scale, 6),
            "rotation_clockwise": round(placed.rotation, 6),
            "stretch": round(placed.stretch, 6),
            "upright": placed.upright,
            "centre": placed.centre.round(3).tolist(),
            "shift": placed.shift.round(3).tolist(),
            "corners": placed.corners.round(3).tolist(),
        },
        "matches": matches,
        **missing_tree(one.missing),
    }


def pairs_tree(matches: np.ndarray) -> list[dict[str, Any]]:
    """Inlier regions (m, 2, 6), original pixels."""
    return [{"query": pair[0].round(3).tolist(), "image": pair[1].round(3).tolist()} for pair in matches.astype(float)]
