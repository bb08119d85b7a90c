"""From the day's extract to a champion: frozen examples, a tuned ranker, a scorecard, a gate.

`examples` splits purchases by time and freezes them, `scorecard` compares models and is the gate, `finetune` has the
three steps of the DAG. Not here: the models (ranking), the registry (tracking), what is made with a champion (products).
"""
