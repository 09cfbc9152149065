# In an empty folder of a machine with casewise 1.0: writes what is stored here. `study.yaml` is beside this file.
set -e
casewise phantom photographs --subjects 12 --visits 1 --size 96x64 --seed 1
python - <<'P'
import pandas as pd
table = pd.read_csv("photographs/visits.csv")
table["dark"] = table["skin_tone"].ge(4).map({True: "yes", False: "no"})
table["age"] = 30 + table["subject"].str[1:].astype(int)
table.to_csv("photographs/visits.csv", index=False)
P
casewise run study.yaml --output run
mkdir new
cp -r photographs/images/S03 new
casewise predict run new --output predicted.csv --learner networks
