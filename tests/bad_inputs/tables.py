"""Bad CSV files: depths, run lengths, metadata, folds, submissions, solutions and sample submissions."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from stagepipe.data.formats import scan
from stagepipe.errors import DataError, RecipeError, StagepipeError
from stagepipe.evaluate import evaluate
from stagepipe.folds import split
from stagepipe.recipe.model import Dataset, Folds
from stagepipe.submission import write
from tests.bad_inputs import BadInput
from tests.bad_inputs.images import png
from tests.bad_inputs.raw_data import OUTPUTS, Spoil, content, quarantine, refusal
from tests.data_layouts import picture, save
from tests.dicom_files import dicom

DEPTHS, RUNS, METADATA, SIIM_RUNS = "depths.csv", "train.csv", "metadata.csv", "train-rle.csv"
FOLDS, SENT, SOLUTION, ROWS = "folds.csv", "submission.csv", "solution.csv", "sample_submission.csv"
IDS = ("a", "b", "c", "d")


def row(path: str, sample_id: str, new: str) -> Spoil:
    """Puts other text in place of the row of an id."""

    def spoil(root: Path) -> None:
        lines = (root / path).read_text(encoding="utf-8").splitlines()
        changed = [new if line.startswith(f"{sample_id},") else line for line in lines]
        assert changed != lines
        (root / path).write_text("\n".join([*changed, ""]), encoding="utf-8")

    return spoil


def also(path: str, line: str) -> Spoil:
    """Adds a row."""

    def spoil(root: Path) -> None:
        with (root / path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    return spoil


def depths(*lines: str) -> Spoil:
    """The table of depths with another first line and others after it."""
    rows = [f"{sample_id},{number}" for number, sample_id in enumerate(("t0", "t1", "t2", "t3", "u0", "u1"))]
    return content(DEPTHS, "\n".join([*lines, *rows, ""]).encode())


def _away(root: Path) -> None:
    (root / DEPTHS).rename(root.parent / DEPTHS)
    (root / DEPTHS).symlink_to(root.parent / DEPTHS)


def _nowhere(root: Path) -> None:
    (root / DEPTHS).unlink()
    (root / DEPTHS).symlink_to("nowhere.csv")


def _pipe(root: Path) -> None:
    (root / DEPTHS).unlink()
    os.mkfifo(root / DEPTHS)


def _endless(root: Path) -> None:
    with (root / DEPTHS).open("ab") as file:
        file.truncate((1 << 30) + 1)  # takes no room on the disk


def _two_tables(root: Path) -> None:
    (root / "dicom-images-test/f1.dcm").write_bytes(dicom(picture(1, 1)))


def _test_with_mask(root: Path) -> None:
    (root / "stage_2_images").mkdir()
    (root / "stage_2_images/h0.dcm").write_bytes(dicom(picture(1, 1)))
    also(SIIM_RUNS, "h0,-1")(root)


RAW: list[BadInput] = [
    refusal("table of no bytes", "tgs", content(DEPTHS, b""), DEPTHS, "lacks the columns"),
    refusal("table with a header alone", "tgs", content(DEPTHS, b"id,z\n"), DEPTHS, "'t0'", "no labelled image"),
    refusal("table whose first line is empty", "tgs", depths("", "id,z"), DEPTHS, "lacks the columns"),
    refusal("table without one of its columns", "tgs", depths("id,depth"), DEPTHS, "z", "id,depth"),
    refusal("table with one column twice", "tgs", content(DEPTHS, b"id,z,z\nt0,1,2\n"), DEPTHS, "z stands twice"),
    refusal("table with semicolons", "tgs", content(DEPTHS, b"id;z\nt0;1\n"), DEPTHS, "id;z"),
    refusal("table with a line break in its header", "tgs", depths('"id', '",z'), DEPTHS),
    refusal("table with a row that is too short", "tgs", depths("id,z", "t9"), DEPTHS, "t9"),
    refusal("table with a quote that is never closed", "tgs", depths("id,z", '"t9,1'), DEPTHS),
    refusal("table in Latin-1", "tgs", content(DEPTHS, "id,z\nt\u00e9,1\n".encode("latin-1")), DEPTHS, "UTF-8"),
    refusal("table in UTF-16", "tgs", content(DEPTHS, "id,z\nt0,1\n".encode("utf-16")), DEPTHS, "UTF-8"),
    refusal("table that is an image", "tgs", content(DEPTHS, png(24, 24, 24)), DEPTHS, "UTF-8"),
    refusal("table of one line of 100 MB", "tgs", content(DEPTHS, b"x" * 100_000_000), DEPTHS),
    refusal("table of one line of 50000000 columns", "tgs",
            content(DEPTHS, b"x," * 50_000_000), DEPTHS, "first line", "1,048,576"),
    refusal("table of 5000 NUL bytes", "tgs", content(DEPTHS, bytes(5000)), DEPTHS, "lacks the columns", r"\x00..."),
    refusal("table with two byte order marks", "tgs",
            depths("\ufeff\ufeffid,z"), DEPTHS, r"\ufeffid,z"),
    refusal("table of more than 1 GiB", "tgs", _endless, DEPTHS, "1,073,741,825"),
    refusal("table that is a folder", "tgs",
            lambda root: ((root / DEPTHS).unlink(), (root / DEPTHS).mkdir()), DEPTHS, "is no file"),
    refusal("table that is a pipe", "tgs", _pipe, DEPTHS, "is no file"),
    refusal("table that is a link to nowhere", "tgs", _nowhere, DEPTHS, "is no file"),
    quarantine("table that links out of the root", "tgs", _away, "outside_root", DEPTHS, "depths.csv"),
    quarantine("depth nan", "tgs", row(DEPTHS, "t1", "t1,nan"), "bad_value", DEPTHS, "'t1'", "'nan'"),
    quarantine("depth -inf", "tgs", row(DEPTHS, "t1", "t1,-inf"), "bad_value", DEPTHS, "'t1'", "'-inf'"),
    quarantine("depth 1e999", "tgs", row(DEPTHS, "t1", "t1,1e999"), "bad_value", DEPTHS, "'t1'", "'1e999'"),
    quarantine("depth left out", "tgs", row(DEPTHS, "t1", "t1,"), "bad_value", DEPTHS, "'t1'"),
    quarantine("depth 1_000", "tgs", row(DEPTHS, "t1", "t1,1_000"), "bad_value", DEPTHS, "'1_000'"),
    quarantine("depth in digits of another script", "tgs",
               row(DEPTHS, "t1", "t1,\u0661\u0662"), "bad_value", DEPTHS, "\u0661\u0662"),
    quarantine("id in two rows", "tgs", also(DEPTHS, "t1,5"), "duplicate_id", DEPTHS, "'t1'", "2 rows"),
    quarantine("image without a row", "tgs", row(DEPTHS, "u1", "u9,5"), "missing_metadata", DEPTHS, "'u1'"),
    quarantine("row without an image", "tgs", also(DEPTHS, "ghost,5"), "missing_image", DEPTHS, "'ghost'"),
    quarantine("id ../../etc/passwd", "tgs",
               also(DEPTHS, "../../etc/passwd,5"), "bad_id", DEPTHS, "'../../etc/passwd'"),
    quarantine("id /etc/passwd", "tgs", also(DEPTHS, "/etc/passwd,5"), "bad_id", DEPTHS, "'/etc/passwd'"),
    quarantine(r"id ..\windows", "tgs", also(DEPTHS, "..\\windows,5"), "bad_id", DEPTHS, "windows"),
    quarantine("id of no letters", "tgs", also(DEPTHS, ",5"), "bad_id", DEPTHS, "is empty"),
    quarantine("id with a NUL byte", "tgs", also(DEPTHS, "a\0b,5"), "bad_id", DEPTHS, r"'a\x00b'"),
    quarantine("id of 100000 letters", "tgs", also(DEPTHS, "x" * 100_000 + ",5"), "bad_id", DEPTHS, "128 characters"),
    quarantine("id with an accent, written in two ways", "tgs",
               also(DEPTHS, "e\u0301,5"), "missing_image", DEPTHS, "e\u0301"),
    quarantine("run lengths of an odd count", "tgs", row(RUNS, "t1", "t1,5 3 1"), "bad_rle", "t1.png", "odd count"),
    quarantine("run lengths beyond the image", "tgs", row(RUNS, "t1", "t1,570 99"), "bad_rle", "t1.png", "570 99"),
    quarantine("run lengths that overlap", "tgs", row(RUNS, "t1", "t1,1 9 5 9"), "bad_rle", "t1.png", "5 9"),
    quarantine("run lengths below 0", "tgs", row(RUNS, "t1", "t1,-5 3"), "bad_rle", "t1.png", "-5 3"),
    quarantine("run lengths of 20 digits", "tgs",
               row(RUNS, "t1", "t1,1 99999999999999999999"), "bad_rle", "t1.png", "99999999999999999999"),
    quarantine("run lengths that are text", "tgs", row(RUNS, "t1", "t1,none"), "bad_rle", "t1.png", "'none'"),
    quarantine("run lengths of a space of another script", "tgs", row(RUNS, "t1", "t1,\u2003"), "bad_rle", "t1.png"),
    refusal("metadata column with a name of ours", "folder",
            content(METADATA, b"id,fold\na0,1\na1,2\nb0,3\n"), "'fold'", "rename"),
    refusal("metadata column without a name", "folder", content(METADATA, b"id,\na0,1\na1,2\nb0,3\n"), "''", "name"),
    quarantine("metadata inf", "folder", row(METADATA, "a1", "a1,inf"), "bad_value", METADATA, "'a1'", "'inf'"),
    quarantine("metadata with another split than its folder", "folder",
               content(METADATA, b"id,split\na0,train\na1,test\nb0,test\n"), "bad_value", METADATA, "'a1'", "train"),
    quarantine("film with a row -1 and another", "siim", also(SIIM_RUNS, "f1,-1"), "bad_rle", SIIM_RUNS, "'f1'"),
    quarantine("film whose runs leave it", "siim", row(SIIM_RUNS, "f1", "f1,0 577"), "bad_rle", "f1.dcm", "0 577"),
    quarantine("film with an empty text", "siim", row(SIIM_RUNS, "f1", "f1,"), "bad_rle", "f1.dcm", "is empty"),
    quarantine("film without a row", "siim", row(SIIM_RUNS, "f1", "g0,-1"), "missing_mask", "f1.dcm", SIIM_RUNS),
    quarantine("row of a film that isn't there", "siim", also(SIIM_RUNS, "f7,-1"), "missing_image", SIIM_RUNS, "'f7'"),
    quarantine("film in train and test", "siim", _two_tables, "duplicate_id", "f1.dcm"),
    quarantine("test film with a label", "siim", _test_with_mask, "bad_value", "h0.dcm", "has a label"),
]  # fmt: skip


# ---------------------------------------------------------------------------------------- folds, submissions, solutions


def _text(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def _split(folder: Path) -> object:
    samples = pa.table({"sample_id": IDS, "split": ["train"] * len(IDS)})
    return split(samples, Folds(count=2, file=str(folder / FOLDS)))


def _folds(name: str, text: str, *says: str, kind: type[StagepipeError] = DataError) -> BadInput:
    return BadInput(name, "folds file", _text(FOLDS, text), _split, kind, says)


def _sent(name: str, text: str, *says: str, solution: str = "id,rle_mask\na,1 2\nb,\n") -> BadInput:
    def build(folder: Path) -> None:
        _text(SENT, text)(folder)
        _text(SOLUTION, solution)(folder)

    return BadInput(name, "evaluate", build, lambda f: evaluate(f / SENT, f / SOLUTION, (4, 4)), DataError, says)


def _sized(name: str, spoil: Spoil, *says: str) -> BadInput:
    """An evaluation with sizes from a folder of images."""

    def build(folder: Path) -> None:
        _text(SENT, "id,rle_mask\na,1 2\nb,\n")(folder)
        for sample_id in ("a", "b"):
            save(folder / f"images/{sample_id}.png", picture(1, 1))
        spoil(folder / "images")

    def meet(folder: Path) -> object:
        return evaluate(folder / SENT, folder / SENT, folder / "images")

    return BadInput(name, "evaluate", build, meet, DataError, says)


def _pipe_in_place(images: Path) -> None:
    (images / "b.png").unlink()
    os.mkfifo(images / "b.png")


def _written(name: str, text: str, *says: str, ids: tuple[str, ...] = ("a", "b")) -> BadInput:
    """A submission in the order of a sample submission."""
    masks = [(sample_id, np.ones((4, 4), np.uint8)) for sample_id in ids]

    def meet(folder: Path) -> object:
        return write(folder.parent / OUTPUTS / SENT, masks, "tgs", folder / ROWS, ["salt"])

    return BadInput(name, "sample submission", _text(ROWS, text), meet, DataError, says)


def _scan(root: str) -> Callable[[Path], object]:
    return lambda folder: scan(Dataset(format="tgs", root=root), folder / root)


OTHERS: list[BadInput] = [
    _folds("fold beyond their count", "id,fold\na,0\nb,1\nc,2\nd,1\n", FOLDS, "c (2)", "0..1"),
    _folds("fold below 0", "id,fold\na,0\nb,1\nc,-1\nd,1\n", FOLDS, "c (-1)"),
    _folds("fold nan", "id,fold\na,0\nb,nan\nc,0\nd,1\n", FOLDS, "b (nan)"),
    _folds("fold inf", "id,fold\na,0\nb,inf\nc,0\nd,1\n", FOLDS, "b (inf)"),
    _folds("fold 1.0", "id,fold\na,0\nb,1.0\nc,0\nd,1\n", FOLDS, "b (1.0)"),
    _folds("fold of 5000 digits", f"id,fold\na,0\nb,{'9' * 5000}\nc,0\nd,1\n", FOLDS, "b (999"),
    _folds("sample without a fold", "id,fold\na,0\nb,1\nc,0\n", FOLDS, "without a row: d"),
    _folds("sample with two folds", "id,fold\na,0\nb,1\nc,0\nd,1\nd,0\n", FOLDS, "several rows: d"),
    _folds("no column of folds", "id,split\na,0\n", FOLDS, "fold", "id,split"),
    _folds("no column of ids", "name,fold\na,0\n", FOLDS, "name,fold", "fname"),
    _folds("two columns of folds", "id,fold,fold\na,0,1\n", FOLDS, "fold stands twice"),
    _folds("fold without a sample", "id,fold\na,0\nb,0\nc,0\nd,0\n", "folds.count", "1", kind=RecipeError),
    BadInput("no such file", "folds file", lambda folder: None, _split, DataError, (FOLDS, "is no file")),
    _sent("submission without a row of the solution", "id,rle_mask\na,1 2\n", SENT, "missing: b"),
    _sent("submission with a row that isn't in the solution", "id,rle_mask\na,\nb,\n../c,\n", SENT, "../c"),
    _sent("submission with two rows of an id", "id,rle_mask\na,\nb,\nb,\n", SENT, "several rows: b"),
    _sent("solution whose mask leaves the image", "id,rle_mask\na,\nb,\n", SOLUTION, "a (rle", "9 9",
          solution="id,rle_mask\na,9 9\nb,\n"),
    _sent("submission with a column twice", "id,rle_mask,id\na,,\n", SENT, "id stands twice"),
    _sent("solution with a header alone", "id,rle_mask\n", SOLUTION, "has no row", solution="id,rle_mask\n"),
    _sent("solution of no bytes", "id,rle_mask\na,\n", SOLUTION, "lacks the columns", solution=""),
    _sent("submission whose masks overlap", "id,rle_mask\na,1 4 2 3\nb,\n", SENT, "a (rle", "2 3"),
    _sent("submission of another contest", "image,mask\na,\n", SENT, "image,mask"),
    _sized("image of 60000 x 60000 pixels beside a submission",
           lambda images: (images / "b.png").write_bytes(png(60_000, 60_000, 1)), "b.png", "3600000000"),
    _sized("pipe beside a submission", _pipe_in_place, "b.png", "no plain file"),
    _sized("text named .png beside a submission",
           lambda images: (images / "b.png").write_bytes(b"hello"), "b.png", "undecodable"),
    _sized("two images of one id beside a submission",
           lambda images: save(images / "b.jpg", picture(1)), "b.png", "keep one"),
    BadInput("masks of 0 x 4 pixels", "evaluate", _text(SENT, "id,rle_mask\na,\n"),
             lambda f: evaluate(f / SENT, f / SENT, (0, 4)), DataError, ("0 x 4",)),
    BadInput("masks of 1000000 x 1000000 pixels", "evaluate", _text(SENT, "id,rle_mask\na,\n"),
             lambda f: evaluate(f / SENT, f / SENT, (1_000_000, 1_000_000)), DataError, ("1000000 x 1000000",)),
    _written("row without a mask", "id,rle_mask\na,\nb,\nc,\n", ROWS, "no mask: c"),
    _written("mask without a row", "id,rle_mask\na,\n", ROWS, "no row: b"),
    _written("two rows of an id", "id,rle_mask\na,\na,\nb,\n", ROWS, "several rows: a"),
    _written("two masks of an id", "id,rle_mask\na,\nb,\n", "'b'", "two masks", ids=("a", "b", "b")),
    _written("sample submission of no bytes", "", ROWS, "lacks the columns"),
    BadInput("root of 5000 letters", "tgs", lambda folder: None, _scan("x" * 5000), DataError, ("does not exist",)),
    BadInput("root that is a file", "tgs", _text("raw", ""), _scan("raw"), DataError, ("raw is no folder",)),
    BadInput("root with a NUL byte", "tgs", lambda folder: None, _scan("a\0b"), DataError, ("does not exist",)),
]  # fmt: skip

TABLES = RAW + OTHERS
