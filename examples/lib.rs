//! Example programs of Epic Server, one for each use case. Each is one file beside this one:
//!
//! | file | what it shows |
//! |---|---|
//! | `game.rs` | the program of the README: players shoot at barrels |
//! | `chat.rs` | references in state, one-way calls, errors of your own, `serial` and `join` |
//! | `friends.rs` | `partition_by`: objects that talk to each other live together |
//! | `simulation.rs` | agents that act by themselves: `spawn`, `sleep`, `random`, policies of saving |
//! | `graph.rs` | a breadth-first search over objects as vertices, with arguments that are read in place |
//! | `bank.rs` | transfers that lose no money whatever fails, and their tests in a simulated world |
//! | `own_node.rs` | a program that sets up its own node: hooks, `forget()`, an orderly end |
//! | `own_store.rs` | a store of one's own, a journal of text, and the suite that it passes |
//!
//! Run one with `cargo run -p epicserver-examples --example game`. All of them begin like this:
//!
//! ```
//! use epicserver::prelude::*;
//!
//! #[entity(name = "examples.Greeter", key = String)]
//! #[derive(Default)]
//! struct Greeter {}
//!
//! #[methods]
//! impl Greeter {
//!     async fn greet(&self) -> String {
//!         "hello".to_owned()
//!     }
//! }
//! ```
