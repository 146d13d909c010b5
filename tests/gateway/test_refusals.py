"""Every way to be refused, in the OpenAI shape, asked of the application itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from madang.traffic.table import Waiting

from .conftest import chat

PATH = "/v1/chat/completions"
NO_ROOM = Waiting("model.too-large", {"memory": "1GB", "least": "2GB", "subject": "service/bot"})


@pytest.fixture
def door(app, table):
    """A gateway that has just heard of a table whose model has no replica."""
    app.desk.take(table(waiting=NO_ROOM))
    app.desk.hear(time.monotonic())
    app.client.headers["Authorization"] = "Bearer sk-test"
    return app


def error_of(response, status, code):
    """Check what all refusals have in common, and return the error."""
    assert response.status_code == status, response.text
    assert response.headers["x-madang-table"] == "1"
    assert response.headers["x-request-id"].startswith("req-test-")
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic sk-test", "Bearer nobody"])
async def test_a_request_without_a_known_key_is_401(door, authorization):
    door.client.headers["Authorization"] = authorization
    response = await door.post()
    error_of(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_an_unknown_key_is_503_once_control_has_not_been_heard(door):
    door.desk.hear(time.monotonic() - 6)
    door.client.headers["Authorization"] = "Bearer new-key"
    response = await door.post()
    error_of(response, 503, "key_unverified")
    assert response.headers["retry-after"] == "1"


async def test_two_keys_are_ambiguous(door):
    both = [("Authorization", "Bearer sk-test"), ("Authorization", "Bearer other")]
    response = await door.client.post(PATH, headers=both, json={})
    error_of(response, 400, "ambiguous_request")


async def test_an_upgrade_is_refused(door):
    response = await door.client.post(PATH, headers={"Upgrade": "h2c"}, json={})
    error_of(response, 400, "ambiguous_request")
    assert response.headers["connection"] == "close"


async def test_a_model_without_replica_is_503_and_says_what_it_waits_for(door):
    error = error_of(await door.post(), 503, "model_not_ready")
    assert error["message"] == (
        "The model 'bot' can't answer now: no replica is ready."
        " The model does not fit into 1GB: it needs 2GB at least."
    )


async def test_a_model_without_replica_says_what_it_waits_for_in_korean_too(door):
    door.client.headers["Accept-Language"] = "ko-KR,ko;q=0.9,en;q=0.8"
    error = error_of(await door.post(), 503, "model_not_ready")
    assert error["message"] == (
        "'bot' 모델은 지금 답할 수 없습니다. 준비된 복제본이 없습니다."
        " 모델이 1GB에 들어가지 않습니다. 적어도 2GB가 필요합니다."
    )


async def test_a_model_that_waits_for_nothing_known_is_just_not_ready(app, table):
    app.desk.take(table())
    app.client.headers["Authorization"] = "Bearer sk-test"
    error = error_of(await app.post(), 503, "model_not_ready")
    assert error["message"] == "The model 'bot' can't answer now: no replica is ready."


KOREAN = "'messages[0].content' 안에 NUL 문자가 있습니다."
ENGLISH = "'messages[0].content' holds a NUL character."


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("ko", KOREAN),
        ("KO-kr", KOREAN),
        ("ko-KR,ko;q=0.9,en-US;q=0.8", KOREAN),
        ("en-US,ko;q=0.5", ENGLISH),
        ("ja", ENGLISH),
        ("", ENGLISH),
        ("*", ENGLISH),
        ("한국어", ENGLISH),
    ],
)
async def test_a_refusal_is_said_in_the_language_that_the_client_asks_for(door, wanted, said):
    asked = chat(messages=[{"role": "user", "content": "\0"}])
    headers = {"Accept-Language": wanted.encode()}
    response = await door.client.post(PATH, headers=headers, json=asked)
    error = error_of(response, 400, "invalid_request")
    assert (error["message"], error["param"]) == (said, "messages[0].content")


async def test_the_next_step_follows_the_sentence(door):
    door.client.headers["Authorization"] = ""
    door.client.headers["Accept-Language"] = "ko"
    error = error_of(await door.post(), 401, "invalid_api_key")
    assert error["message"] == ("키가 필요합니다. 이렇게 보내세요: 'Authorization: Bearer KEY'")


async def test_what_a_caller_sends_never_fills_a_sentence_of_ours(door):
    error = error_of(await door.post(model="{project} %s {0.__class__}"), 404, "model_not_found")
    assert "'{project} %s {0.__class__}'" in error["message"]


async def test_a_body_over_the_bound_is_413_in_korean_too(door):
    headers = {"Accept-Language": "ko"}
    response = await door.client.post(PATH, headers=headers, content=b"x" * 1001)
    error = error_of(response, 413, "body_too_large")
    assert error["message"] == "본문이 1000바이트보다 큽니다."
    assert response.headers["content-length"] == str(len(response.content))


async def test_an_unknown_model_is_404_and_names_those_that_exist(door):
    error = error_of(await door.post(model="bott"), 404, "model_not_found")
    assert error["param"] == "model"
    assert "bot" in error["message"].partition("There are:")[2]


async def test_a_compressed_body_is_415(door):
    response = await door.client.post(PATH, headers={"Content-Encoding": "gzip"}, content=b"x")
    error_of(response, 415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", PATH, "POST"), ("DELETE", "/v1/models", "GET"), ("POST", "/healthz", "GET")],
)
async def test_a_wrong_method_is_405_and_says_which_is_right(door, method, path, allow):
    response = await door.client.request(method, path)
    error_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow


async def test_an_unknown_path_is_404(door):
    error_of(await door.client.get("/v1/audio/speech"), 404, "unknown_url")


async def test_a_body_over_the_bound_is_413(door):
    response = await door.client.post(PATH, content=b"x" * 1001)
    error_of(response, 413, "body_too_large")


async def test_a_body_that_grows_over_the_bound_is_413(door):
    async def pieces():
        for _ in range(100):
            yield b"x" * 100

    response = await door.client.post(PATH, content=pieces())
    error_of(response, 413, "body_too_large")
    assert response.headers["connection"] == "close"


async def test_a_field_nobody_knows_is_400_with_the_nearest_name(door):
    error = error_of(await door.post(temprature=1), 400, "unknown_field")
    assert error["param"] == "temprature"
    assert "'temperature'" in error["message"]


async def test_a_body_that_is_not_json_is_400(door):
    error_of(await door.client.post(PATH, content=b"{"), 400, "invalid_json")


async def test_models_are_listed_for_the_key_that_asks(door):
    listed = (await door.client.get("/v1/models")).json()
    assert [each["id"] for each in listed["data"]] == ["bot"]
    one = (await door.client.get("/v1/models/bot")).json()
    assert one == listed["data"][0]
    again = (await door.client.get("/v1/models/seoul/minwon/bot")).json()
    assert again["owned_by"] == "seoul/minwon"
    error_of(await door.client.get("/v1/models/other"), 404, "model_not_found")


async def test_health_needs_no_key_but_a_table(app, table):
    assert (await app.client.get("/healthz")).status_code == 503
    app.desk.take(table(version=4))
    response = await app.client.get("/healthz")
    assert response.status_code == 200
    assert response.json()["table"] == 4


async def test_a_client_that_leaves_while_sending_is_nobodys_error(door, eventually):
    url = door.client.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {PATH} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\nContent-Length: 9\r\n"
    writer.write(f"{head}Authorization: Bearer sk-test\r\n\r\n".encode())
    await eventually(lambda: door.desk.open == 1)
    writer.close()
    await eventually(lambda: not door.app.connections)
    assert (door.desk.open, door.records) == (0, [])


async def test_a_body_that_never_arrives_is_408(serve, eventually):
    from madang.traffic.limits import Limits

    async with serve(limits=Limits(body_s=0.1)) as door:
        host, _, port = door.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 9\r\n"
        writer.write(f"{head}Authorization: Bearer sk-test\r\n\r\n".encode())
        assert b"408" in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_sends_too_much_still_reads_its_413(serve):
    async with serve() as door:
        host, _, port = door.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        head += "Transfer-Encoding: chunked\r\n"
        writer.write(f"{head}Authorization: Bearer sk-test\r\n\r\n".encode())
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(70):
            writer.write(piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"body_too_large" in answer
        writer.close()
        await writer.wait_closed()
