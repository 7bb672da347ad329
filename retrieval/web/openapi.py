"""The description of the API in OpenAPI 3.1, which /docs shows."""

from typing import Any

from retrieval.datasets.labels import LABELS
from retrieval.search.grades import GRADES
from retrieval.version import __version__
from retrieval.web import pictures
from retrieval.web.forms import MAX_CANDIDATES, MAX_TOP

_INDEXED_OR_UPLOADED = "of a photograph of the index (16 hexadecimal digits), or of an uploaded one (32)"
_ID_SCHEMA = {"type": "string", "pattern": "^[0-9a-f]{16}([0-9a-f]{16})?$"}
_SIZE = {
    "type": "array",
    "items": {"type": "integer", "minimum": 1},
    "minItems": 2,
    "maxItems": 2,
    "description": "width, height, pixels",
}
_BOX = {
    "type": ["array", "null"],
    "items": {"type": "number"},
    "minItems": 4,
    "maxItems": 4,
    "description": "x1, y1, x2, y2 in pixels of the photograph as it is seen; null: all of it",
}
_TRANSFORM = {
    "type": ["array", "null"],
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
    "minItems": 2,
    "maxItems": 2,
    "description": "2 x 3, query to image, pixels; null where geometry does not confirm the hit",
}
_REGION = {"type": "array", "items": {"type": "number"}, "minItems": 6, "maxItems": 6}
_MATCHES = {
    "type": "array",
    "description": "pairs of regions x, y, a, b, c, angle; [[a, 0], [b, c]] takes the unit circle to the ellipse",
    "items": {"type": "object", "required": ["query", "image"], "properties": {"query": _REGION, "image": _REGION}},
}

_MIRRORED = {
    "type": "boolean",
    "description": "found by the mirror image; transform and matches are in the query as it is",
}


def description(upload_bytes: int, root: str = "", labelling: bool = False) -> dict[str, Any]:
    """The document.

    Args:
        upload_bytes: longest body that is taken.
        root: path under which a proxy shows the server, or "".
        labelling: with what the labelling mode adds.
    """
    options = {
        "top": {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 20, "description": "number of hits"},
        "verify": {"type": "boolean", "default": True, "description": "confirm the best candidates by geometry"},
        "expand": {
            "type": ["string", "null"],
            "enum": ["auto", "aqe", "hqe", "none", None],
            "default": "auto",
            "description": "search again with what was confirmed: aqe, average query expansion; hqe, Hamming query "
            "expansion with several words a feature; none (or null), only once, which is the fastest; auto: Hamming "
            "query expansion with one word a feature where the index keeps signatures and verify is true, else as none",
        },
        "matches": {"type": "boolean", "default": False, "description": "also the matching regions of every hit"},
        "mirror": {
            "type": "boolean",
            "default": False,
            "description": "search with the mirror image as well, and keep the better of the two for every photograph",
        },
        "candidates": {
            "type": ["array", "null"],
            "items": {"type": "string"},
            "maxItems": MAX_CANDIDATES,
            "description": "names of photographs of the index, as another engine proposes them: only these are ranked, "
            "and all of them confirmed by geometry; null: all photographs",
        },
        "skip_unknown": {
            "type": "boolean",
            "default": False,
            "description": "leave out candidates that are not in the index, instead of an error",
        },
    }
    by_id = _object({"id": {**_ID_SCHEMA, "description": f"id {_INDEXED_OR_UPLOADED}"}, "box": _BOX, **options}, "id")
    file = {"type": "string", "contentMediaType": "application/octet-stream", "description": "JPEG, PNG, HEIC, TIFF …"}
    form_options = {
        **options,
        "expand": {"type": "string", "enum": ["auto", "aqe", "hqe", "none"]},
        "candidates": {"type": "string", "description": "names of photographs of the index, one a line"},
    }
    box_text = {"type": "string", "description": "x1,y1,x2,y2"}
    by_file = _object({"photograph": file, "box": box_text, **form_options}, "photograph")
    refused = ("400", "404", "410", "503")
    sent = ("400", "408", "413", "415", "422", "503")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Image retrieval",
            "version": __version__,
            "description": "Finds the photographs of a collection that show the same thing as a photograph, or a box "
            "in it. Errors are JSON objects with a sentence under the key error.",
        },
        **({"servers": [{"url": root}]} if root else {}),
        "paths": {
            "/api/search": {
                "post": {
                    "summary": "Search with a photograph of the index, an uploaded one, or one that comes along",
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {"schema": by_id},
                            "multipart/form-data": {"schema": by_file},
                        },
                    },
                    "responses": _responses("What was found, best first", _ref("Found"), *refused, *sent),
                }
            },
            "/api/uploads": {
                "post": {
                    "summary": "Upload a photograph to search with",
                    "description": f"At most {upload_bytes / 1e6:g} megabytes; kept in memory while there is room.",
                    "requestBody": {
                        "required": True,
                        "content": {"multipart/form-data": {"schema": _object({"photograph": file}, "photograph")}},
                    },
                    "responses": _responses("It is kept", _ref("Photograph"), *sent, status="201"),
                }
            },
            "/api/images": {
                "get": {
                    "summary": "The photographs of the index, by name",
                    "parameters": [
                        _query("page", {"type": "integer", "minimum": 1, "maximum": 10**8, "default": 1}),
                        _query("size", {"type": "integer", "minimum": 1, "maximum": 200, "default": 48}),
                        _query("q", {"type": "string", "maxLength": 200}, "only names that contain this"),
                    ],
                    "responses": _responses("One page", _ref("Page"), "400", "503"),
                }
            },
            "/api/images/{id}": {
                "get": {
                    "summary": "Facts about a photograph",
                    "parameters": [_id()],
                    "responses": _responses("Facts", _ref("Photograph"), *refused),
                }
            },
            "/api/images/{id}/picture": {
                "get": {
                    "summary": "A photograph as a JPEG",
                    "parameters": [
                        _id(),
                        _query("side", {"type": "integer", "enum": list(pictures.SIDES), "default": 1280}),
                    ],
                    "responses": _picture(*refused),
                }
            },
            "/thumbnails/{id}": {
                "get": {
                    "summary": "A small JPEG of a photograph",
                    "parameters": [_id()],
                    "responses": _picture(*refused),
                }
            },
            "/api/explain": {
                "get": {
                    "summary": "Why a photograph of the index gets its score: words, matching regions, transform",
                    "description": "Of the search with geometry, expanded as by default or not at all.",
                    "parameters": [
                        _query("query", _ID_SCHEMA, f"id {_INDEXED_OR_UPLOADED}", required=True),
                        _query("hit", _ID_SCHEMA, "id of a photograph of the index", required=True),
                        _query("box", {"type": "string"}, "x1,y1,x2,y2"),
                        _query("mirror", {"type": "boolean", "default": False}, "of query and mirror image the better"),
                        _query("expand", {"type": "string", "enum": ["auto", "none"], "default": "auto"}),
                    ],
                    "responses": _responses("The account", _ref("Explanation"), *refused),
                }
            },
            "/api/groups": {
                "get": {
                    "summary": "The groups of photographs that show one thing, the largest first",
                    "description": "By the pairs beside the index, which retrieval groups makes; photographs that are "
                    "missing from them are in no group.",
                    "parameters": [
                        _CONFIDENCE,
                        _query("page", {"type": "integer", "minimum": 1, "maximum": 10**8, "default": 1}),
                        _query("size", {"type": "integer", "minimum": 1, "maximum": 200, "default": 24}, "groups"),
                    ],
                    "responses": _responses("One page", _ref("Groups"), "400", "409", "503"),
                }
            },
            "/api/groups/{id}": {
                "get": {
                    "summary": "The group of a photograph, and the links that it has with others of it",
                    "description": "A photograph in no group is alone in one.",
                    "parameters": [
                        _id(),
                        _CONFIDENCE,
                        _query(
                            "page",
                            {"type": "integer", "minimum": 1, "maximum": 10**8},
                            "default: the page that the photograph is on",
                        ),
                        _query(
                            "size", {"type": "integer", "minimum": 1, "maximum": 200, "default": 200}, "photographs"
                        ),
                    ],
                    "responses": _responses("The group", _ref("Group"), "400", "404", "409", "503"),
                }
            },
            "/api/group-sizes": {
                "get": {
                    "summary": "How many photographs are in the groups of some; those in no group are left out",
                    "parameters": [
                        _query("ids", {"type": "string"}, "1 to 200 ids of photographs, with commas", required=True),
                        _CONFIDENCE,
                    ],
                    "responses": _responses("Numbers by id", _ref("GroupSizes"), "400", "409", "503"),
                }
            },
            "/api/index": {
                "get": {
                    "summary": "Facts about the index and what the server takes",
                    "responses": _responses("Facts", _ref("Index"), "503"),
                }
            },
            **(_labels() if labelling else {}),
            "/healthz": {
                "get": {
                    "summary": "Whether the server is there",
                    "security": [],
                    "responses": _responses("It is", _object({"status": {"const": "ok"}}, "status")),
                }
            },
        },
        "components": {
            "schemas": _schemas(labelling),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "with --token only"}},
        },
        "security": [{}, {"token": []}],
    }


def _labels() -> dict[str, Any]:
    label = {"type": ["string", "null"], "enum": [*LABELS, None]}
    mark = {
        "query": {**_ID_SCHEMA, "description": "id of a photograph of the index"},
        "box": _BOX,
        "hit": {**_ID_SCHEMA, "description": "id of a photograph of the index"},
        "label": {**label, "description": "what the hit is for the query; null takes it back"},
        "expected": {**label, "description": "the label that it is taken to have: with another one nothing is done"},
    }
    body = {"application/json": {"schema": _object(mark, "query", "hit", "label")}}
    return {
        "/api/labels": {
            "get": {
                "summary": "What was said of the hits of a query, and how many queries are labelled",
                "parameters": [
                    _query("query", _ID_SCHEMA, "id of a photograph of the index"),
                    _query("box", {"type": "string"}, "x1,y1,x2,y2"),
                ],
                "responses": _responses("The labels", _ref("Labels"), "400", "404", "409", "503"),
            },
            "post": {
                "summary": "Say what a photograph is for a query; it is on disk when the answer comes",
                "requestBody": {"required": True, "content": body},
                "responses": _responses(
                    "It is saved", _ref("Labels"), "400", "404", "408", "409", "413", "415", "500", "503"
                ),
            },
        }
    }


_STAMPED: dict[str, Any] = {
    "type": "integer",
    "minimum": 0,
    "description": "inliers that a date, a watermark or a frame explains; grades do not count them",
}


_GRADE: dict[str, Any] = {
    "enum": ["sure", "perhaps", "chance", "words"],
    "description": "very likely the same, perhaps, may be chance; words: without a transform",
}


def _schemas(labelling: bool) -> dict[str, Any]:
    photograph = {
        "id": {**_ID_SCHEMA},
        "name": {"type": "string"},
        "size": _SIZE,
        "features": {"type": "integer", "minimum": 0},
        "findable": {"type": "boolean", "description": "whether it has features; without any, no search finds it"},
        "uploaded": {"type": "boolean"},
    }
    hit = {
        "rank": {"type": "integer", "minimum": 1},
        "name": {"type": "string"},
        "score": {"type": "number"},
        "inliers": {"type": "integer", "minimum": 0},
        "stamped": _STAMPED,
        "grade": _GRADE,
        "transform": _TRANSFORM,
        "id": _ID_SCHEMA,
        "size": _SIZE,
    }
    query = {"name": {"type": "string"}, "box": _BOX, "features": {"type": "integer"}, "id": _ID_SCHEMA, "size": _SIZE}
    side = {"name": {"type": "string"}, "id": _ID_SCHEMA, "size": _SIZE, "features": {"type": "integer"}}
    found = {
        "query": _object(query, *query),
        "hits": {"type": "array", "items": _ref("Hit")},
        "depth": {"type": "integer", "description": "how many candidates geometry looked at"},
        "seconds": {"type": "number"},
    }
    partial = {
        "partial": {"const": True, "description": "a part of the index did not answer in time; absent where all did"},
        "missing": {
            "type": "array",
            "items": _object(
                {"segments": {"type": "array", "items": {"type": "string"}}, "images": {"type": "integer"}},
                *("segments", "images"),
            ),
            "description": "the parts, and how many photographs lie in each; absent where all answered",
        },
    }
    page = {
        "images": {"type": "array", "items": _ref("Photograph")},
        "page": {"type": "integer"},
        "pages": {"type": "integer"},
        "total": {"type": "integer"},
    }
    explanation = {
        "query": _object({**side, "box": _BOX}, "name", "id", "size"),
        "image": _object(side, "name", "id", "size"),
        "rank": {"type": ["integer", "null"]},
        "score": {"type": ["number", "null"]},
        "inliers": {"type": "integer"},
        "stamped": _STAMPED,
        "grade": _GRADE,
        "mirrored": _MIRRORED,
        "cosine": {"type": "number"},
        "listed_rank": {"type": ["integer", "null"], "description": "before geometry"},
        "expansion": {
            "type": ["object", "null"],
            "description": "photographs whose signatures were taken in, votes, and what geometry multiplies them by; "
            "null for a search by words",
        },
        "words": {"type": "array", "items": {"type": "object"}},
        "reason": {"type": ["string", "null"], "description": "why there is no transform"},
        "transform": _TRANSFORM,
        "placement": {"type": ["object", "null"]},
        "matches": _MATCHES,
    }
    index = {
        "name": {"type": "string"},
        "images": {"type": "integer"},
        "features": {"type": "integer"},
        "signatures": {"type": "boolean", "description": "whether there are votes, for expand: auto and hqe"},
        "grades": {
            "type": "object",
            "description": "once, aqe, hqe (auto is as hqe where there are signatures, else as once): inliers, less "
            "those stamped, from which hits are sure, or perhaps the same; sure where they lie in so many of 16 x 16 "
            "cells of both photographs, or from `anywhere` on. For aqe those that were verified anew; the grade of a "
            "hit goes by its own verification",
            "additionalProperties": _object(
                {one: {"type": "integer"} for one in ("sure", "perhaps", "cells", "anywhere")},
                *("sure", "perhaps", "cells", "anywhere"),
            ),
        },
        "depth": {"type": "integer"},
        "max_megapixels": {"type": "number"},
        "max_upload": {"type": "integer", "description": "bytes"},
        "labels": {"type": ["string", "null"], "description": "the file that is being labelled; null: none"},
    }
    labels = {
        "labels": {
            "type": "object",
            "description": "id of a photograph -> what it is for the query",
            "additionalProperties": {"enum": list(LABELS)},
        },
        "labelled": {"type": "integer", "description": "queries of the list that have a label"},
        "queries": {"type": "integer", "description": "queries of the list"},
        "next": {"type": ["string", "null"], "description": "id of the next one without a label"},
    }
    before = {"type": ["string", "null"], "enum": [*LABELS, None], "description": "the label that the hit had"}
    member = {
        **photograph,
        "links": {"type": "integer", "minimum": 0, "description": "pairs that it has within the group"},
        "copy_of": {
            "type": ["string", "null"],
            "description": "name of the largest of the copies that it is one of; null where it is that or no copy",
        },
    }
    members = {"type": "array", "items": _object(member, *member)}
    by_pairs = {
        "page": {"type": "integer"},
        "pages": {"type": "integer"},
        "total": {"type": "integer", "description": "of all pages"},
        "confidence": {"enum": list(GRADES[::-1])},
        "photographs": {"type": "integer", "description": "of the index"},
        "grouped": {"type": "integer", "description": "photographs of the index that are in a group"},
        "pairs": {"type": ["integer", "null"], "description": "pairs beside the index; null: there are none"},
        "missing": {"type": "integer", "description": "photographs that were not searched with for these pairs"},
    }
    strip = {
        "total": {"type": "integer", "description": "photographs of the group"},
        "copies": {"type": "integer", "description": "of them copies of another one"},
        "images": {**members, "description": "the first of them by name"},
    }
    link = {
        "id": _ID_SCHEMA,
        "name": {"type": "string"},
        "inliers": {"type": "integer", "minimum": 1},
        "stamped": _STAMPED,
        "significance": {"type": "number"},
        "grade": {"enum": list(GRADES[::-1])},
        "query": {**_ID_SCHEMA, "description": "of the two, the one whose search found these inliers"},
    }
    groups = {"groups": {"type": "array", "items": _object(strip, *strip)}, **by_pairs}
    group = {
        "id": _ID_SCHEMA,
        "name": {"type": "string"},
        "images": members,
        "links": {"type": "array", "items": _object(link, *link)},
        **by_pairs,
    }
    sizes = {"sizes": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 2}}}
    return {
        "Photograph": _object(photograph, *photograph),
        "Hit": _object({**hit, "matches": _MATCHES, "mirrored": _MIRRORED}, *hit),
        "Found": _object({**found, **partial}, *found),
        "Page": _object(page, *page),
        "Explanation": _object({**explanation, **partial}, *explanation),
        "Index": _object(index, *index),
        **({"Labels": _object({**labels, "before": before}, *labels)} if labelling else {}),
        "Groups": _object(groups, *groups),
        "Group": _object(group, *group),
        "GroupSizes": _object(sizes, *sizes),
        "Error": _object({"error": {"type": "string"}}, "error"),
    }


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _id() -> dict[str, Any]:
    return {"name": "id", "in": "path", "required": True, "description": _INDEXED_OR_UPLOADED, "schema": _ID_SCHEMA}


def _query(name: str, schema: dict[str, Any], text: str = "", required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": text or name, "schema": schema}


_CONFIDENCE = _query(
    "confidence",
    {"type": "string", "enum": list(GRADES[::-1]), "default": GRADES[-1]},
    "the grade that links are trusted from",
)


def _responses(text: str, schema: dict[str, Any], *errors: str, status: str = "200") -> dict[str, Any]:
    found = {status: {"description": text, "content": {"application/json": {"schema": schema}}}}
    return {**found, **_errors(errors)}


def _picture(*errors: str) -> dict[str, Any]:
    found = {"description": "The picture", "content": {"image/jpeg": {"schema": {"type": "string"}}}}
    return {"200": found, "304": {"description": "It has not changed"}, **_errors(errors)}


def _errors(statuses: tuple[str, ...]) -> dict[str, Any]:
    texts = {
        "400": "The request is not as it should be",
        "403": "Another site made the request",
        "404": "No photograph has this id, or it is not kept any more",
        "409": "It is not as it was taken to be: another label, an uploaded photograph, a file that was changed, pairs "
        "that are damaged",
        "500": "It could not be written",
        "408": "The request came too slowly",
        "410": "The photograph's file has gone or changed",
        "413": "Too large",
        "415": "Of another type than expected",
        "422": "No usable photograph",
        "503": "Too much to do, or the workers that search the index do not answer; Retry-After says when to try again",
    }
    statuses = tuple(dict.fromkeys(("401", "403", "421", *statuses)))
    texts |= {"401": "A token is needed", "421": "The server is not known by the name it was called"}
    return {
        status: {"description": texts[status], "content": {"application/json": {"schema": _ref("Error")}}}
        for status in sorted(statuses)
    }
