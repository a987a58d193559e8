"""All bad inputs."""

from tests.bad_inputs import BadInput
from tests.bad_inputs.dicom import FILMS
from tests.bad_inputs.images import IMAGES
from tests.bad_inputs.recipes import RECIPES
from tests.bad_inputs.runs_and_json import RUNS
from tests.bad_inputs.sealed import SEALED
from tests.bad_inputs.street_recipes import STREET_RECIPES
from tests.bad_inputs.streets import STREETS
from tests.bad_inputs.tables import TABLES

ALL: list[BadInput] = [*IMAGES, *FILMS, *STREETS, *TABLES, *RUNS, *RECIPES, *STREET_RECIPES, *SEALED]
