"""The browser check itself fails on pages that a person would call broken."""

import base64
from io import BytesIO

import pytest
from browser import check_page
from PIL import Image


def png() -> str:
    buffer = BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write(folder, body):
    path = folder / "page.html"
    path.write_text(f"<!doctype html><html><head><title>t</title></head><body>{body}</body></html>", encoding="utf-8")
    return path


def test_a_sound_page_passes(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "beside.png")
    body = f'<p>text</p><img alt="inline" src="{png()}"><img alt="beside" src="beside.png"><a href="#x">link</a>'
    check_page(write(tmp_path, body))
    check_page(write(tmp_path, body), width=400)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("", "the page is empty"),
        ("<script>document.title = 'only a script'</script>", "the page is empty"),
        (f'<p>text</p><img alt="cut" src="{png()[:-40]}">', "broken picture: cut"),
        ('<p>text</p><img alt="gone" src="nowhere.png">', "could not load .*nowhere.png"),
        ("<p>text</p><script>console.error('oh no', 3)</script>", "console: oh no 3"),
        ("<p>text</p><script>missing_function()</script>", "missing_function is not defined"),
        ("<p>text</p><script>Promise.reject('late')</script>", "promise: late"),
        ('<link rel="stylesheet" href="nowhere.css"><p>text</p>', "could not load .*nowhere.css"),
        ('<div style="width:900px">wide</div>', "pixels wide"),
    ],
)
def test_faults_are_found(tmp_path, body, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_page(write(tmp_path, body), width=600)
