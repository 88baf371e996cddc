"""A person's browser without scripts: it keeps cookies, follows redirects, and sends the forms of the page it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx

from tests.http.gateway_server import Gateway

VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})


@dataclass
class Form:
    """A form: where it is sent, and its fields."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)

    def value(self, name: str) -> str | None:
        return dict(self.fields).get(name)


class Document(HTMLParser):
    """A page, parsed strictly: every element must be closed in order, and ids must be unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.forms: list[Form] = []
        self.text = ""
        self.is_doctype_first = False
        self.feed(text)
        self.close()
        assert self.tags == [], f"not closed: {self.tags}"
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_decl(self, decl: str) -> None:
        self.is_doctype_first = decl == "doctype html" and not self.elements

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"repeated attribute in {tag}"
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.tags.append(tag)
        if tag == "form":
            assert self.tags.count("form") == 1, "a form in a form"
            self.forms.append(Form(attributes.get("action") or "", attributes.get("method") or "get"))
        elif tag in ("input", "textarea", "select") and self.forms and "form" in self.tags:
            self.forms[-1].fields.append((attributes["name"] or "", attributes.get("value") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.tags, f"</{tag}> closes nothing"
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.elements if each == tag]


class Browser:
    """A browser of one person."""

    def __init__(self, gateway: Gateway, **headers: str) -> None:
        self.client = httpx.Client(base_url=gateway.url, timeout=30, verify=False, follow_redirects=True)
        self.client.headers.update({"Accept": "text/html"} | headers)
        self.response = httpx.Response(0)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def open(self, path: str) -> Document:
        self.response = self.client.get(path)
        return self.document

    @property
    def document(self) -> Document:
        return Document(self.response.text)

    @property
    def path(self) -> str:
        return self.response.url.raw_path.decode()

    def form(self, **fields: str) -> Form:
        """Return the form of the page that has these values. An empty value stands for any."""
        for form in self.document.forms:
            if all(form.value(name) is not None and value in ("", form.value(name)) for name, value in fields.items()):
                return form
        raise AssertionError(f"no form with {fields} in {self.response.text}")

    def submit(self, form: Form, headers: dict[str, str] | None = None, **values: Any) -> Document:
        """Send a form with these values."""
        data: dict[str, list[str]] = {}
        for name, value in form.fields:
            data.setdefault(name, []).append(value)
        data |= {name: [str(value)] for name, value in values.items()}
        self.response = self.client.post(form.action or self.path, data=data, headers=headers)
        return self.document

    def act(self, action: str, **values: Any) -> Document:
        """Send the form for an action of an incident's page."""
        return self.submit(self.form(action=action), **values)

    def log_in(self, token: str) -> Document:
        self.open("/login/")
        return self.submit(self.form(token=""), token=token)
