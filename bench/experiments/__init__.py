"""The report's experiments, measured anew: figures 5.2, 5.3, 5.4 and 1.5 (its chapters 5 and 1).

A *run* is one migration under traffic; its result is a row, kept in out/experiments, and never made
again unless that is asked for.  So a series may be interrupted anywhere, and goes on with the next
call.  Figures and tables are drawn from the rows alone, beside them or, where that is asked for, in
docs; what is published there counts as kept, so that nobody's first look replaces it.

    points.py          what is to be measured, in what order, what of it is still missing
    store.py           the rows, and the table of them that is published
    confidence.py      mean and 95 % confidence interval
    traffic.py         the lab's probe; iperf, counted by tcpdump at both ends as in the report
    capture.py         packets of a capture file
    migrations.py      moves a router in the lab under traffic
    domain0_kernel.py  plane separation in Domain 0's kernel: the report's second baseline
    designs.py         figure 1.5: four designs of a router, forwarding rate and latency
    flood.py           a sender that is as fast as it can be
    figures.py         .png and .csv
    claims.py          the report's claims beside what was measured: experiments.md
"""
