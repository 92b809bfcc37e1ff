//! One binary for the integration tests of the data directory.

#[path = "it/child.rs"]
mod child;
#[path = "it/death.rs"]
mod death;
#[path = "it/founding.rs"]
mod founding;
#[path = "it/keeping.rs"]
mod keeping;
