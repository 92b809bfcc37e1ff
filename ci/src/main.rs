//! The task runner behind cargo ci.
fn main() {}
