"""One datapath: its connection, what it holds, what is written, watched and proven."""
