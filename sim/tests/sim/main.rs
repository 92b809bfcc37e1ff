//! The simulator itself: the same seed is the same run, and bugs that are planted are found.

mod determinism;
mod own_objects;
mod planted;
mod regressions;
mod tape;
