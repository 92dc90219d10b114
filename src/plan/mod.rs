//! Memory and time plan of a run.
