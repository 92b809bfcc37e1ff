//! The program as a person runs it. Nothing here holds a time against a limit.

#[path = "it/harness.rs"]
mod harness;
#[path = "it/moves.rs"]
mod moves;
#[path = "it/processes.rs"]
mod processes;
#[path = "it/rtt.rs"]
mod rtt;
#[path = "it/save.rs"]
mod save;
