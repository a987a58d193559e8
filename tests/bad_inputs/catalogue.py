"""All bad inputs."""

from tests.bad_inputs import BadInput
from tests.bad_inputs.dicom import FILMS
from tests.bad_inputs.images import IMAGES
from tests.bad_inputs.recipes import RECIPES
from tests.bad_inputs.runs_and_json import RUNS
from tests.bad_inputs.sealed import SEALED
from tests.bad_inputs.tables import TABLES

ALL: list[BadInput] = [*IMAGES, *FILMS, *TABLES, *RUNS, *RECIPES, *SEALED]
