//! The macros as their users see them: what compiles, what it becomes, and what the compiler says otherwise.

mod entity;
mod game;
mod message;
mod methods;
mod migrations;
mod mistakes;
