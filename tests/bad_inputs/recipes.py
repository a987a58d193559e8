"""Bad recipes."""

from collections.abc import Callable
from pathlib import Path

from stagepipe.errors import RecipeError
from stagepipe.recipe.load import load
from tests.bad_inputs import BadInput
from tests.recipe_example import TEXT

RECIPE = "recipe.yaml"
OVERLAY = "overlay.yaml"


def _replaced(old: str, new: str) -> str:
    """The recipe with one piece of its text replaced."""
    assert old in TEXT, f"the recipe no longer holds {old!r}"
    return TEXT.replace(old, new, 1)


def _writes(content: str | bytes, name: str = RECIPE) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return build


def _overlaid(overlay: str) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        _writes(TEXT)(folder)
        _writes(overlay, OVERLAY)(folder)

    return build


def _load(folder: Path) -> object:
    return load(folder / RECIPE)


def _load_both(folder: Path) -> object:
    return load(folder / RECIPE, [folder / OVERLAY])


def _case(name: str, content: str | bytes, *says: str) -> BadInput:
    return BadInput(name, "recipe", _writes(content), _load, RecipeError, (RECIPE, *says))


def _changed(name: str, old: str, new: str, *says: str) -> BadInput:
    return _case(name, _replaced(old, new), *says)


def _overlay(name: str, overlay: str, *says: str) -> BadInput:
    return BadInput(name, "recipe with an overlay", _overlaid(overlay), _load_both, RecipeError, (OVERLAY, *says))


def _aliases(levels: int = 40, width: int = 10) -> str:
    """Every list holds the one before it ten times over: 10^40 values if written out."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


def _merged_keys(levels: int = 40) -> str:
    """Merge keys that double the pairs to merge with each line."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}]}}" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


def _folder_instead(folder: Path) -> None:
    (folder / RECIPE).mkdir()


def _nothing(folder: Path) -> None:
    pass


NAME = "name: example"
LR = "lr: 1.0e-3"
EPOCHS = "epochs: 2}"

FILES: list[BadInput] = [
    BadInput("the file is missing", "recipe", _nothing, _load, RecipeError, (RECIPE, "no such file")),
    BadInput("a folder in the file's place", "recipe", _folder_instead, _load, RecipeError, (RECIPE, "directory")),
    _case("an empty file", "", "holds nothing"),
    _case("a list", "- name: example\n", "holds a list"),
    _case("a single value", "example\n", "holds a single value"),
    _case("not UTF-8", _replaced(NAME, "name: exämple").encode("latin-1"), "utf-8"),
    _case("UTF-16", TEXT.encode("utf-16"), "utf-8"),
    _case("a NUL byte", _replaced(NAME, "name: exa\0mple"), "#x0000"),
    _case("indented with tabs", "dataset:\n\tformat: tgs\n", "line 2"),
    _case("cut off in the middle of a line", TEXT[: TEXT.index("encoder: resnet34") + 8], "line"),
    _case("two documents in one file", TEXT + "---\n" + TEXT, "line", "document"),
    _case("lists a thousand levels deep", "name: " + "[" * 1000 + "]" * 1000, "levels"),
    _case("mappings a hundred thousand levels deep", "{a: " * 100_000 + "1" + "}" * 100_000, "levels"),
    _case("aliases of aliases, 10^40 values if written out", _aliases(), "alias"),
    _case("merge keys of merge keys, 2^40 pairs", _merged_keys(), "alias"),
    _case("an alias that holds itself", "name: &a [*a]\n", "alias"),
    _case("an alias of nothing", "name: *nothing\n", "line 1", "nothing"),
    _case(
        "a tag that asks for a Python object", "name: !!python/object/apply:os.getcwd []\n", "line 1", "python/object"
    ),
    _case("a tag that asks for a Python name", "name: !!python/name:os.system\n", "line 1", "python/name"),
    _case("a date that is none", _replaced(NAME, "name: 2020-13-45"), "month"),
    _case("a list as a key", _replaced(NAME, NAME + "\n? [a, b]\n: 1"), "line"),
]

VALUES: list[BadInput] = [
    _changed("an unknown key", LR, LR + ", learning_rate: 1", "learning_rate"),
    _changed("a key written twice", NAME, NAME + "\nname: other", "line 3", "'name'", "twice"),
    _changed("a key with no value", NAME, "name:", "name"),
    _changed("text in place of a number", EPOCHS, "epochs: many}", "epochs", "many"),
    _changed("a list in place of a number", EPOCHS, "epochs: [2, 3]}", "epochs"),
    _changed("a mapping in place of a list", "classes: [salt]", "classes: {salt: 1}", "classes"),
    _changed("a number in place of a mapping", "folds: {count: 3, stratify: [coverage, depth]}", "folds: 3", "folds"),
    _changed("a key that is a number", NAME, NAME + "\n7: seven", "7"),
    _changed("images of 60000 x 60000 pixels", "resize: 80", "resize: 60000", "networks.small.resize", "60000 x 60000"),
    _changed("epochs below nought", EPOCHS, "epochs: -2}", "epochs", "-2"),
    _changed("half an epoch", EPOCHS, "epochs: 2.5}", "epochs", "2.5"),
    _changed("more epochs than 64 bits hold", EPOCHS, "epochs: 1" + "0" * 30 + "}", "line", "1" + "0" * 30),
    _changed("a number of 5,000 digits", EPOCHS, "epochs: " + "9" * 5000 + "}", "digits"),
    _changed("a learning rate that is not a number", LR, "lr: .nan", "lr", "NaN"),
    _changed("an infinite learning rate", LR, "lr: .inf", "lr", "Infinity"),
    _changed("a learning rate too large for a float", LR, "lr: 1.0e+999", "lr", "Infinity"),
    _changed("an infinite weight of a loss", "weight: 0.5", "weight: .inf", "weight", "Infinity"),
    _changed("a share that is not a number", "stage1: 0.25", "stage1: .nan", "blend", "NaN"),
    _changed("a name that leaves the folder of results", NAME, "name: ../../example", "name", "../../example"),
    _changed("a name of 300 characters", NAME, "name: " + "x" * 300, "name"),
    _changed("a name outside ASCII", NAME, "name: Salz-Körner", "name"),
    _changed("an empty name", NAME, 'name: ""', "name"),
    _changed("a run whose name is a path", "      small:\n", "      ../small:\n", "../small"),
    _changed("a root with a NUL character", "root: data/tgs", 'root: "data\\0tgs"', "line", "NUL"),
    _changed("phases that start from one another", "{name: warm,", "{name: warm, init: stage1/small/tuned,", "init"),
    _changed("a blend of an unknown run", "stage2/first: 0.75", "stage2/last: 0.75", "blend", "stage2/last"),
    _changed("a run of an unknown network", "network: small", "network: tiny", "tiny"),
    _changed("pseudolabels of an unknown stage", "{stage: stage1,", "{stage: stage0,", "stage0"),
    _changed("two stages of one name", "- name: stage2", "- name: stage1", "stage1"),
    _changed("an unknown loss", "loss: lovasz_hinge", "loss: lovasz_hing", "lovasz_hing", "lovasz_hinge"),
    _changed("a control character in a name", NAME, 'name: "exa\\x1b[31mmple"', "name"),
]

OVERLAYS: list[BadInput] = [
    _overlay(
        "it removes a key that isn't there", "networks: {huge: {remove: true}}\n", "networks.huge", "small, large"
    ),
    _overlay("`*` stands for a number", "networks: {'*': 3}\n", "networks.*"),
    _overlay("it adds an unknown key", "speed: 3\n", "speed"),
    _overlay("it names a stage that isn't there", "stages: [{name: stage9, ensemble: {small: 1}}]\n", "stages.stage9"),
    _overlay("it is empty", "", "holds nothing"),
    _overlay("aliases of aliases, 10^40 values if written out", _aliases(), "alias"),
]

RECIPES: list[BadInput] = FILES + VALUES + OVERLAYS
