"""Whether a run that is on its way can still reach its accuracy, by what runs that reached it had at that epoch."""

from typing import Any, Dict, Optional, Sequence


def hopeless(evaluations: Sequence[Dict[str, Any]], band: Dict[str, Any]) -> Optional[str]:
    """Return why the last evaluation leaves no hope, or None.

    ``evaluations`` have epoch (how many were done), top1_hits and images. The band is the job's argument
    ``early_check``: ``lowest``, growing pairs of an epoch and the lowest top-1 of the runs that reached ``target``;
    ``margin``, how far below it is hopeless; ``source``. Of the pairs that the run has passed, the newest counts.
    """
    last = evaluations[-1]
    passed = [point for point in band["lowest"] if point[0] <= last["epoch"]]
    if not passed:
        return None
    epoch, lowest = passed[-1]
    top1, least = last["top1_hits"] / last["images"], lowest - band["margin"]
    if top1 >= least:
        return None
    found = "At epoch %.4g top-1 is %.4f, and less than %.4f is hopeless" % (last["epoch"], top1, least)
    known = "runs that reached %.4g had at least %.4f from epoch %.4g on" % (band["target"], lowest, epoch)
    return "%s: %s (%s)." % (found, known, band["source"])
