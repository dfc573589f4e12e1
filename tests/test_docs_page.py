"What the server says of itself: OpenAPI that is valid and true, and a page of it that asks nobody else."
import json, re

import pytest
import requests
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from linacodec_tier3.config import read_config
from linacodec_tier3.server import make_app
from linacodec_tier3.web.answers import ServerState
from support_browser import browser, in_browser
from support_server import serving

assert browser
AXES = """() => [...document.querySelectorAll('main h2, main h3, main h4')].map(h => +h.tagName[1])"""


def spec_with(**env): return make_app(ServerState(read_config(env))).openapi()


def checked(spec, name, given): # raises for what is not as the type says
    whole = DRAFT202012.create_resource(spec)
    schema = {"$ref": f"spec#/components/schemas/{name}"}
    Draft202012Validator(schema, registry=Registry().with_resource("spec", whole)).validate(given)


def test_openapi_is_valid_with_and_without_a_key():
    for env in ({}, {"API_KEY": "k", "HEALTH_CHECK_PATH": "/alive"}):
        spec = spec_with(**env)
        validate(spec)
        operations = [(path, *one) for path, all_ in spec["paths"].items() for one in all_.items()]
        assert {"/speak", "/v1/audio/speech", "/v1/audio/voices", "/docs"} <= spec["paths"].keys()
        for path, method, o in operations:
            assert o["summary"] and o["responses"], (path, method)
            needs = bool(env) and (method != "get" or path not in ("/", "/docs", "/openapi.json", "/alive"))
            assert bool(o.get("security")) is needs and ("401" in o["responses"]) is needs, (path, method)
            if method == "post": assert o["requestBody"]["content"] and "400" in o["responses"]
        assert "422" not in json.dumps(spec)


def test_answers_are_as_openapi_says():
    with serving(CODEC="nano", DEFAULT_SERVICE="tone", VOICES_BY_HTTP="on") as (_, url):
        spec = requests.get(f"{url}/openapi.json", timeout=30).json()
        said = requests.post(f"{url}/speak", json=dict(text="One. Two.", stream=True), timeout=60).text
        first, *_, last = map(json.loads, said.splitlines())
        for name, given in (("TokenPartial", first), ("Complete", last)): checked(spec, name, given)
        for path, name in (("/health", "Health"), ("/voices", "Services"), ("/v1/models", "Models"),
                           ("/v1/models/tone", "Model"), ("/v1/audio/voices", "Voices")):
            checked(spec, name, requests.get(url + path, timeout=60).json())
        for path, name in (("/speak", "Error"), ("/v1/audio/speech", "OpenAIError"),
                           ("/v1/audio/voices", "OpenAIError")):
            checked(spec, name, requests.post(url + path, data=b"{", timeout=30).json())
        checked(spec, "Request", dict(text="Hi."))
        page = requests.get(f"{url}/docs", timeout=30)
        assert f"curl -sN {url}/speak" in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert not re.search(r"""(src|href|action)=["']?(https?:)?//""", page.text)


@in_browser
@pytest.mark.parametrize("width,scheme", [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_the_page_is_readable_by_all(browser, width, scheme):
    with serving(CODEC="none", DEFAULT_SERVICE="tone", API_KEY="s3cret") as (_, url):
        context = browser.new_context(viewport=dict(width=width, height=844), color_scheme=scheme)
        page, faults, hosts = context.new_page(), [], set()
        page.on("console", lambda m: faults.append(m.text))
        page.on("request", lambda r: hosts.add("/".join(r.url.split("/")[:3])))
        page.goto(f"{url}/docs")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        levels = page.evaluate(AXES)
        assert levels[0] == 2 and all(b - a <= 1 for a, b in zip(levels, levels[1:]))
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the documentation"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.click("nav a[href='#post-v1-audio-voices']")
        assert page.locator("#post-v1-audio-voices").is_visible()
        assert "consent" in page.inner_text("#VoiceForm")
        assert not faults and hosts == {url} and len(page.screenshot()) > 10_000
        context.close()
