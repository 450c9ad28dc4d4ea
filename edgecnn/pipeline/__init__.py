"""The numbered list of steps, and the only place where steps meet.

    1 train      2 export     3 calibrate   4 quantize   5 reference      host
    6 build      7 validate   8 bench                                     device
    9 gate      10 report                                                 anywhere

`tasks.py` says which files each step makes from which, `schedule.py` which of them are stale and why, `steps.py` does
the work, `run.py` runs a recipe.
"""

STEPS = ("train", "export", "calibrate", "quantize", "reference", "build", "validate", "bench", "gate", "report")
HOST_STEPS = STEPS[:5]
