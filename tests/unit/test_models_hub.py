"""Weights from the Hugging Face hub: from a server of this test, and without any."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from safetensors.torch import save
from torch import nn

from edgecnn.errors import ModelError, UsageError
from edgecnn.models import hub
from edgecnn.models.pretrained import load_pretrained, pretrained_preprocess
from edgecnn.models.zoo import ModelSpec, build
from edgecnn.spec import Interpolation

COMMIT = "a" * 40
SPEC = ModelSpec("resnet8", 10, 32)
CONFIG = {
    "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic", "crop_pct": 0.9}
}


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install edgecnn[huggingface]")


def resnet(classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(ModelSpec("resnet8", classes, 32))


FILES = {
    "/org/net/resolve/main/model.safetensors": lambda: save(resnet(classes=100).state_dict()),
    "/org/net/resolve/main/config.json": lambda: json.dumps(CONFIG).encode(),
    "/org/net/resolve/v2/deep/other.safetensors": lambda: save(resnet(classes=10, seed=3).state_dict()),
    "/org/foreign/resolve/main/model.safetensors": lambda: save(
        {f"x.{k}": v for k, v in resnet().state_dict().items()}
    ),
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for a file."""

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def answer(self, with_content: bool) -> None:
        make = FILES.get(self.path)
        known = self.path.startswith(("/org/net/", "/org/foreign/"))
        content = make() if make else b""
        self.send_response(200 if make else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        if not make:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone, and no proxy."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_UPDATE_CHECK", True, raising=False)
    monkeypatch.setattr(hub, "getproxies", dict)
    return tmp_path / "hub"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{found.server_address[1]}")
        yield found
        found.shutdown()


@pytest.fixture
def nobody(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")


@pytest.mark.usefixtures("server")
def test_weights_come_from_the_hub_with_the_usual_report() -> None:
    target, source = resnet(seed=1), resnet(classes=100).state_dict()
    report = load_pretrained(target, "hf:org/net", 10)
    assert (report.source, report.matched_by) == ("hf:org/net", "name")
    assert set(report.missing) == set(report.unexpected) == {"classifier.weight", "classifier.bias"}
    same = {
        name: torch.equal(value, source[name]) for name, value in target.state_dict().items() if "class" not in name
    }
    assert all(same.values())


@pytest.mark.usefixtures("server")
def test_another_file_and_revision() -> None:
    target = resnet(seed=1)
    assert load_pretrained(target, "hf:org/net@v2/deep/other.safetensors", 10).missing == ()
    assert torch.equal(target.state_dict()["conv.weight"], resnet(seed=3).state_dict()["conv.weight"])


def test_what_was_fetched_before_is_there_without_a_network(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.fetch("hf:org/net")
    monkeypatch.setattr(hub, "reachable", lambda url: False)
    assert hub.fetch("hf:org/net") == first


@pytest.mark.usefixtures("server")
def test_the_repository_says_what_it_wants_of_a_picture() -> None:
    p = pretrained_preprocess(SPEC, "hf:org/net")
    assert p is not None
    assert (p.size, p.mean, p.std, p.interpolation) == (32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), Interpolation.BICUBIC)
    assert p.crop_fraction == 0.9
    assert pretrained_preprocess(SPEC, "hf:org/foreign") is None


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("hf:org/net/none.safetensors", r"org/net has no file none\.safetensors"),
        ("hf:org/nothing", "cannot be had"),
        ("hf:org/foreign", "otherwise than the network"),
    ],
)
@pytest.mark.usefixtures("server")
def test_what_is_not_there_or_does_not_fit_is_told(source: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        load_pretrained(resnet(), source, 10)


@pytest.mark.parametrize("source", ["hf:", "hf:net", "hf:org/net/model.bin", "hf:org/net@", "hf:a/b/../c.safetensor"])
def test_names_that_are_none_are_told(source: str) -> None:
    with pytest.raises(UsageError, match="names no weights"):
        load_pretrained(resnet(), source, 10)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the hub's client waits for between its tries, not waited for. Seconds on the clock depend on the machine."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.mark.usefixtures("nobody")
def test_without_a_network_the_answer_comes_at_once(sleeps: list[float]) -> None:
    with pytest.raises(ModelError, match=r"not in the cache, and http://127\.0\.0\.1:\d+ cannot be reached") as caught:
        load_pretrained(resnet(), "hf:org/net", 10)
    assert "pip:efficientnet-lite0" in caught.value.hint
    assert pretrained_preprocess(SPEC, "hf:org/net") is None
    assert sleeps == []


@pytest.mark.usefixtures("nobody")
def test_timm_does_not_try_again_and_again(sleeps: list[float]) -> None:
    pytest.importorskip("timm", reason="timm is not installed: pip install edgecnn[timm]")
    from huggingface_hub import constants

    model = build(ModelSpec("timm:mobilenetv3_small_050", 10, 32))
    with pytest.raises(ModelError, match="could not be downloaded"):
        load_pretrained(model, "timm", 10)
    assert sleeps == [] and not constants.HF_HUB_OFFLINE


def test_a_name_that_is_looked_up_for_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Event()

    def slow(address: object, timeout: float) -> None:
        answered.wait(10)
        raise OSError("no such name")

    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", slow)
    since = time.perf_counter()
    assert not hub.reachable("https://huggingface.co", 0.1)
    assert time.perf_counter() - since < 8
    answered.set()


def test_behind_a_proxy_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy.example:3128"})
    monkeypatch.setattr(socket, "create_connection", None)
    assert hub.reachable("https://huggingface.co")
