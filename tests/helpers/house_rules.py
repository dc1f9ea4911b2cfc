"""The numbers and the order of the house rules, which tests and documents share."""

# From the bottom up: packages, and files that stand beside them. Each imports from itself and from
# those before it, without going round in circles.
_FLOORS = """
    version errors languages files distributed modeling gpu registration precision metrics data
    alignment reporting checkpoints hub inference documents export training convert_d2l demo train
    cli __main__
"""
FLOORS = _FLOORS.split()
MOST_ROOMS = 10  # of a package: its files at first sight
MOST_ROOMS_OF = {"cli": 12}  # a file a command

MOST_LINES = 450
# A model's classes stand in one file, as the library's models have them.
MOST_LINES_OF = {
    "modeling_bahdanau": 1150,
    "generation_bahdanau": 600,
    "recurrence_bahdanau": 600,
}
MOST_TRAVELLING_FILES, MOST_TRAVELLING_LINES = 8, 3100
