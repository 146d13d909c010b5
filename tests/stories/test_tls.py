"""A gateway with a certificate of its own, from the first `up` to the day the certificate ends."""

from __future__ import annotations

import ssl

import httpx
import pytest
from tests.certificates import Files

from .conftest import Yard
from .test_faults import unwell

pytestmark = [pytest.mark.story, pytest.mark.timeout(240)]


def test_a_gateway_shows_its_certificate_and_doctor_watches_its_end(new_yard, tmp_path):
    yard: Yard = new_yard()
    files = Files(tmp_path)
    files.put("ec", days=13.5)
    cert, key = str(files.cert), str(files.key)
    yard.env = {"MADANG_GATEWAY_TLS_CERT": cert}
    refused = yard.run("up", "--port", "0")
    assert refused.returncode != 0
    assert "one of them is not told" in refused.stderr
    yard.env["MADANG_GATEWAY_TLS_KEY"] = key
    told = yard.up()
    assert told["gateway"].startswith("https://127.0.0.1:")
    assert told["answer"]  # the commands come in by TLS too
    trusting = ssl.create_default_context(cafile=cert)
    headers = {"Authorization": f"Bearer {told['api_key']}"}
    with httpx.Client(verify=trusting, headers=headers, timeout=30) as client:
        assert client.get(f"{told['gateway']}/models").json()["data"]
    assert unwell(yard)["doctor.tls-ends"]["values"]["days"] == 13

    files.put("rsa", days=90)
    yard.until("the new one is shown", lambda: not unwell(yard))
    files.key.write_text("nothing")
    yard.until("the broken one is told", lambda: "doctor.tls-kept" in unwell(yard))

    yard.env = {"MADANG_GATEWAY_TLS_CERT": "off"}
    assert "with another certificate, or none" in yard.run("up").stderr
    yard.run("down")
    assert yard.up()["gateway"].startswith("http://127.0.0.1:")
