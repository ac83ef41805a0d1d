"""Where forwards happen: in this process, in a process of their own, on a cluster. One protocol, one file each."""
