"""From the day's extract to a champion: frozen examples, a tuned ranker, a scorecard, a gate.

`examples` splits purchases by time and freezes them, `scorecard` compares models over all and by `slices` and is the
gate, `shadow` and `worst` are pages to look at before a promotion, `finetune` has the three steps of the DAG.
Not here: the models (ranking), the registry (tracking), what is made with a champion (products).
"""
