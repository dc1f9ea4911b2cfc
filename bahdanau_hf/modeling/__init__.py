"""The model: its mathematics, the fast ways, the searches, the pipeline.

These files travel with every checkpoint, so that it loads without the package: they import nothing
but torch, transformers and each other, and stand in one folder without sub-folders.
"""

import transformers  # noqa: F401  before any module here: its import registers the model
