r"""Writes 4,000 dates as people write them, each with its ISO form: pairs to learn by characters.

They are learnt in half a minute:

    bahdanau-hf train pronunciation --target_kind char --train_file dates.tsv --source_column 1 \
      --target_column 2 --max_train_steps 300 --output_dir runs/dates
    echo "3 March 2021" | bahdanau-hf translate --model runs/dates
"""

import random
from datetime import date, timedelta

FORMS = ["{d.day} {d:%B} {d.year}", "{d:%B} {d.day}, {d.year}", "{d.year} {d:%B} {d.day}"]
FORMS += ["{d.day} {d:%b} {d.year}"]  # Mar

draw = random.Random(0)
with open("dates.tsv", "w", encoding="utf-8") as file:
    for days in draw.sample(range(200 * 365), 4000):
        day = date(1900, 1, 1) + timedelta(days)
        file.write(f"{draw.choice(FORMS).format(d=day)}\t{day.isoformat()}\n")
