"""Every setting of the mesh: one name, one place, one unit. Frozen once read.

Values come from the environment (`GPU_MESH_…`, and the plain names of SPEC N2), else from `.env` in the
working folder, else from the defaults below. An empty variable is an unset one: compose hands over
`${GPU_MESH_DEVICES:-}`. An unknown `GPU_MESH_*` name is refused: it is a typing error
that would otherwise pass in silence.
"""

from gpu_mesh.domain.addresses import mask
from gpu_mesh.settings.model import PREFIX, Settings, env_name
from gpu_mesh.settings.reading import load, names_of, read_dotenv, settings, unit_of

__all__ = ["PREFIX", "Settings", "env_name", "load", "mask", "names_of", "read_dotenv", "settings", "unit_of"]
