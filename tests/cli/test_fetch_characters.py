"""Fetching animated characters: from a server of our own, which also sends what is damaged, cut short or not there."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from refused import refused

from fourd_minimal.cli import fetch_characters
from fourd_minimal.cli.fetch_characters import FetchCharacters
from fourd_minimal.cli.main import main
from fourd_minimal.data import collection
from fourd_minimal.data.collection import assets, cache_folder

CONTENT = {  # name here: path in the repository, and bytes
    "a/cat.gltf": ("models of animals/cat.gltf", b"{}" * 400),
    "a/tex/fur.png": ("models of animals/tex/fur.png", bytes(range(256)) * 300),
    "a/LICENCE": ("LICENSE", b"Apache"),
    "a/cow.glb": ("cow.glb", b"glTF cow"),
    "assets/Fox.glb": ("Fox.glb", b"glTF fox"),
}


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """A file that fails is not asked for again, unless a test says so."""
    monkeypatch.setattr(fetch_characters, "RETRIES", 0)


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A list of three assets, and a cache of its own."""

    def files(*names):
        contents = [(CONTENT[n][0], n, CONTENT[n][1]) for n in names]
        return [dict(path=p, name=n, sha256=hashlib.sha256(d).hexdigest(), bytes=len(d)) for p, n, d in contents]

    def asset(name, kind, needs, licences=(), **more):
        about = dict(id=name, kind=kind, family=name, split="train", licence="MIT", attribution="Ann", stated="there")
        origin = dict(repo="ann/zoo", commit="c0ffee", clips=[[0, "walk", 1.0, 0.2, 0.1, 0.9]])
        return {**about, **origin, "files": files(*needs), "licence_files": files(*licences), **more}

    entries = [
        asset("cat", "quadruped", ["a/cat.gltf", "a/tex/fur.png"], ["a/LICENCE"]),
        asset("cow", "quadruped", ["a/cow.glb"], ["a/LICENCE"]),
        asset("fox", "wild", ["assets/Fox.glb"], split="public-test", licence="CC-BY-4.0", attribution="Bob"),
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    monkeypatch.setattr(collection, "MANIFEST", tmp_path / "list.json")
    monkeypatch.setattr(collection, "BESIDE", tmp_path / "beside")
    monkeypatch.setenv("FOURD_CACHE", str(tmp_path / "cache"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    return entries


@pytest.fixture
def server(listed):
    """Its `url`, what was `asked` for, and `corrupted`: how it sends a path, once or always, if not whole."""
    state = SimpleNamespace(asked=[], corrupted={}, halfway=lambda: None)
    whole = {f"/ann/zoo/c0ffee/{path}": data for path, data in CONTENT.values()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = unquote(self.path)
            state.asked.append(path)
            data, how = whole.get(path), state.corrupted.get(path.rpartition("/")[2])
            if how == "damaged once":
                state.corrupted.clear()
            if data is None or how == "missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if how in ("damaged", "damaged once"):
                data = bytes(len(data))
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            state.halfway()
            if how != "truncated":
                self.wfile.write(data[len(data) // 2 :])

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def fetch(server, **options):
    FetchCharacters(**{"base_url": server.url, **options}).run()


def here(folder):
    """Every file below a folder but the one that names the authors."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "ATTRIBUTION.md"
    }


WHOLE = {name: data for name, (_, data) in CONTENT.items()}


def test_all_of_it_comes_and_can_be_used(server, capsys):
    fetch(server)
    assert here(cache_folder()) == WHOLE
    assert sorted(server.asked) == sorted(f"/ann/zoo/c0ffee/{path}" for path, _ in CONTENT.values())
    assert [asset.id for asset in assets()] == ["cat", "cow", "fox"]
    assert "3 of 3 assets; 5 files were fetched, 0 were there" in capsys.readouterr().out
    credits = (cache_folder() / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "| Ann | MIT | [ann/zoo](https://github.com/ann/zoo/tree/c0ffee) | there | cat, cow |" in credits
    assert "| Bob | CC-BY-4.0 |" in credits


def test_whole_files_are_not_asked_for_again(server, capsys):
    fetch(server, only=("fox", "cow"))
    assert [asset.id for asset in assets()] == ["cow", "fox"]
    (cache_folder() / "a/cow.glb").write_bytes(b"glTF COW")  # as long as it should be
    server.asked.clear()
    fetch(server)
    assert sorted(path.rpartition("/")[2] for path in server.asked) == ["cat.gltf", "cow.glb", "fur.png"]
    assert here(cache_folder()) == WHOLE
    server.asked.clear()
    fetch(server)
    assert not server.asked and "0 files were fetched, 5 were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("how", "why"), [("missing", "404"), ("damaged", "does not match"), ("truncated", "ChunkedEncodingError")]
)
def test_what_fails_is_said_and_the_rest_comes(server, capsys, how, why):
    server.corrupted["fur.png"] = how
    with pytest.raises(SystemExit) as status:
        main(["fetch-characters", "--base-url", server.url])
    assert status.value.code == 2
    said = capsys.readouterr()
    (line,) = (line for line in said.err.splitlines() if line.startswith("fourd: a/tex/fur.png"))
    assert f"{server.url}/ann/zoo/c0ffee/models%20of%20animals/tex/fur.png" in line and why in line
    assert "fourd: 1 of 5 files are missing" in said.err and "2 of 3 assets" in said.out
    assert here(cache_folder()) == {n: d for n, d in WHOLE.items() if n != "a/tex/fur.png"}
    assert [asset.id for asset in assets()] == ["cow", "fox"]
    assert "| cow |" in (cache_folder() / "ATTRIBUTION.md").read_text(encoding="utf-8")
    server.corrupted.clear()
    server.asked.clear()
    fetch(server)
    assert len(server.asked) == 1 and here(cache_folder()) == WHOLE


def test_what_was_damaged_does_not_keep_its_name(server):
    fetch(server)
    (cache_folder() / "a/cow.glb").write_bytes(b"half")
    server.corrupted["cow.glb"] = "missing"
    with pytest.raises(ValueError, match="1 of 5 files are missing"):
        fetch(server)
    assert not (cache_folder() / "a/cow.glb").exists()


def test_half_a_file_never_has_its_name(server):
    seen = []
    server.halfway = lambda: seen.append(here(cache_folder()))
    fetch(server)
    assert len(seen) == 5
    for found in seen:
        assert all(found[name] == WHOLE[name] for name in found.keys() & WHOLE.keys())
    assert here(cache_folder()) == WHOLE


def test_a_network_out_of_reach_is_one_sentence(listed, capsys):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}"
    with pytest.raises(SystemExit) as status:
        main(["fetch-characters", "--base-url", url])
    assert status.value.code == 2
    (sentence,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("fourd: "))
    assert sentence.startswith(f"fourd: {url} is out of reach") and "--from" in sentence
    assert not here(cache_folder())


def test_a_copy_at_hand_needs_no_network(listed, tmp_path, capsys):
    """Older assets lie beside, as in shared/data, or inside, as in the cache; what is damaged is refused."""
    copy = tmp_path / "data/characters"
    for name, data in WHOLE.items():
        place = copy.parent if name.startswith("assets/") else copy
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    out, again = tmp_path / "out", tmp_path / "again"
    main(["fetch-characters", "--from", str(copy), "--out", str(out), "--base-url", "http://nowhere.invalid"])
    assert here(out) == WHOLE
    main(["fetch-characters", "--from", str(out), "--out", str(again)])
    assert here(again) == WHOLE
    (copy / "a/cow.glb").write_bytes(b"glTF COW")
    (copy / "a/cat.gltf").unlink()
    with pytest.raises(SystemExit):
        main(["fetch-characters", "--from", str(copy), "--out", str(tmp_path / "third")])
    said = capsys.readouterr().err
    assert str(copy / "a/cow.glb") in said and str(copy / "a/cat.gltf") in said
    assert here(tmp_path / "third").keys() == WHOLE.keys() - {"a/cow.glb", "a/cat.gltf"}


def test_licences_are_printed_and_nothing_is_fetched(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FOURD_CACHE", str(tmp_path / "cache"))
    main(["fetch-characters", "--licences"])
    said = capsys.readouterr().out
    for asset in collection.read_manifest():
        assert asset.id in said and f"| {asset.attribution} | {asset.licence} |" in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(only=("dog",)), ("--only", "dog")),
        (dict(base_url="ftp.here"), ("--base-url", "ftp.here")),
        (dict(out="list.json"), ("--out", "list.json")),
        (dict(source="."), ("--from",)),
        (dict(source="cache", out="cache"), ("--from", "--out")),
    ],
)
def test_bad_input_gets_one_sentence(listed, tmp_path, options, named):
    paths = {name: tmp_path / options[name] for name in ("out", "source") if name in options}
    refused(FetchCharacters(**{**options, **paths}).run, *named, error=(ValueError, FileNotFoundError))
    assert not (tmp_path / "cache").exists()
