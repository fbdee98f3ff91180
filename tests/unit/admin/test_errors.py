"""admin/errors.py: the form of answers and errors."""

import orjson

from masque_relay.admin.errors import ApiError, error_response, json_response


def test_an_error_has_code_message_hint_and_problems() -> None:
    response = error_response(ApiError(422, "code", "message", hint="hint", problems=["one"]))
    assert response.status_code == 422
    assert orjson.loads(bytes(response.body)) == {
        "error": {"code": "code", "message": "message", "hint": "hint", "problems": ["one"]}
    }


def test_what_is_not_known_is_left_out() -> None:
    response = error_response(ApiError(400, "code", "message"))
    assert orjson.loads(bytes(response.body)) == {"error": {"code": "code", "message": "message"}}


def test_only_401_asks_for_a_credential() -> None:
    assert "www-authenticate" in error_response(ApiError(401, "c", "m")).headers
    assert "www-authenticate" not in error_response(ApiError(403, "c", "m")).headers


def test_json_is_not_cached() -> None:
    response = json_response({"a": 1})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
