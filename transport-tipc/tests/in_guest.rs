//! What needs a kernel with TIPC. `cargo ci test` runs it in a guest; an ordinary run of tests leaves it out.

mod in_guest {
    mod conformance;
    mod topology;
}

#[path = "in_guest/wire.rs"]
mod wire;
