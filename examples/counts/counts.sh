# Any language can tell its progress: a line of JSON at a time, behind what is there.
for step in 1 2 3 4 5 6; do
    sleep 0.5
    echo "{\"step\": $step, \"total\": 6, \"metrics\": {\"rate\": 0.$step}}" >>"$MADANG_PROGRESS"
done
