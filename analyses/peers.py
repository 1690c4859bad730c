"""How do other ways of labelling heads fare where the labels are known? (docs/results/validation.md#peers)

    python analyses/peers.py                 # about a quarter of an hour on two cores
    python analyses/peers.py --quick         # one guise of each circuit for choosing and one for scoring

Every circuit of `stackheads validate` on three levels, labelled by the peers of `validation/peers.py`; thresholds are chosen on
one half of the guises (seed 0) and scored on the other. Prints Markdown; with --write the table goes to
analyses/results/peers.csv.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from claims import RESULTS
from tqdm import tqdm

from stackheads.files import write_file
from stackheads.tables import records
from stackheads.validation.peers import cases, said_of, scored


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one guise for each half")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--write", action="store_true", help="also write the table")
    arguments = parser.parse_args()
    threads = {"initializer": torch.set_num_threads, "initargs": (1,)}
    every = cases(0, 1 if arguments.quick else 2)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn"), **threads) as pool:
        found = list(tqdm(pool.map(said_of, *zip(*every, strict=True)), total=len(every), desc="peers", leave=False))
    choosing, scoring = ([each for of_case in found[half::2] for each in of_case] for half in (0, 1))
    table = scored(scoring, choosing)
    columns = ("precision", "recall", "f1", "wrong_role", "missed", "fooled_pattern_only", "fooled_causal_unclassified")
    print(f"| peer | level | threshold | {' | '.join(name.replace('_', ' ') for name in columns)} |")
    print(f"| --- | --- | --- |{' --- |' * len(columns)}")
    for row in records(table):
        numbers = (f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in columns)
        print(f"| {row['peer']} | {row['level']} | {row['threshold']:.3f} | {' | '.join(numbers)} |")
    if arguments.write:
        write_file(RESULTS / "peers.csv", lambda temporary: table.round(4).to_csv(temporary, index=False))


if __name__ == "__main__":
    main()
