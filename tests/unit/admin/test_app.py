"""admin/app.py: what Starlette itself refuses is JSON with a next step too."""

import httpx


async def test_an_unknown_path_names_the_reference(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v2/status")
    assert answer.status_code == 404
    assert "admin-api.md" in answer.json()["error"]["hint"]


async def test_a_wrong_method_says_which_ones_there_are(http: httpx.AsyncClient) -> None:
    answer = await http.put("/api/v1/reload")
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "POST"
